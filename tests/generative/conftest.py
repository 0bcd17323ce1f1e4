import pytest
from tests.generative.world import World, make_corpus, make_sids


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    corpus = make_corpus(root / "corpus")
    return World(corpus, make_sids(root / "sids", corpus))
