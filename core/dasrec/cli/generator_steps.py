"""Steps of `dasrec run` that train a tokenizer's generators and make their lists."""

from collections.abc import Callable, Mapping
from pathlib import Path

from dasrec.cli.generator_config import MAIN, GeneratorConfig, chain_of
from dasrec.core.artifacts import Manifest, load_manifest
from dasrec.core.corpus import Corpus
from dasrec.core.semantic_ids import SemanticIds

FOLDERS = {"pretrain": "bases", "sft": "generators", "align": "aligned"}
"""Where a stage's model goes in the run directory, in the order of the stages."""

HEAD, RANKED = "_head", "_ranked"
"""How lists are named that the item head, or the CTR model, made of a generator's."""

Step = Callable[
    [str, str, Path, Mapping[str, object], Mapping[str, Manifest], Callable[[], object]], None
]
"""stage, artifact kind, path, config, inputs, work: `Run.step`."""


def full_name(tokenizer: str, variant: str) -> str:
    """Name of a generator's artifacts and lists: that of the tokenizer, and its own if any."""
    return tokenizer if variant == MAIN else f"{tokenizer}.{variant}"


def split_name(name: str) -> tuple[str, str]:
    """The tokenizer and the variant ("" for the main generator) of a method's name."""
    tokenizer, _, variant = name.partition(".")
    return tokenizer, variant


def list_names(tokenizer: str, variant: str, config: GeneratorConfig) -> list[str]:
    """Names of the lists that a generator on the SIDs of a tokenizer leads to."""
    name = full_name(tokenizer, variant)
    return [name, name + HEAD] if config.has_head(tokenizer) else [name]


def base_method(name: str) -> str:
    """The method whose lists another one orders anew: `das` of `das_ranked` and `das_head`."""
    return name.removesuffix(RANKED).removesuffix(HEAD)


def trained_model(root: Path, name: str) -> Path:
    """The model that made a method's lists or, without lists, that of the last stage there is.

    A stage that the config has lost since leaves its model behind; the lists tell which one counts.

    Raises:
        FileNotFoundError: the run has no generator of this name.
    """
    folders = [root / folder for folder in FOLDERS.values()]
    found = [folder / name for folder in folders if (folder / name).exists()]
    if not found:
        known = sorted({path.name for folder in folders for path in folder.glob("[!.]*")})
        there = f"there are {', '.join(known)}" if known else "none was trained"
        raise FileNotFoundError(f"--method {name}: {root} has no such generator; {there}")
    lists = root / "recommendations" / name
    if lists.exists():
        from dasrec.generative.model.load import generator_manifest

        used = load_manifest(lists, "recommendations").inputs.get("generator")
        found = [path for path in found if generator_manifest(path).fingerprint == used] or found
    return found[-1]


class GeneratorSteps:
    """All generators of one tokenizer."""

    def __init__(
        self,
        tokenizer: str,
        generators: Mapping[str, GeneratorConfig],
        out: Path,
        published: Path | None,
        step: Step,
        wanted: Callable[[str], bool],
        ranker: Path,
        seed: int,
    ) -> None:
        """Remember where and how to run them.

        Args:
            tokenizer: whose SIDs the generators speak.
            generators: by variant, "main" for the run's own.
            out: the run directory.
            published: directory of an earlier run whose generators are used; None = this one.
            step: runs a stage unless its artifact is up to date.
            wanted: whether a stage is asked for.
            ranker: the CTR model that a reward may ask.
            seed: of every stage.
        """
        self.tokenizer, self.generators = tokenizer, generators
        self.out, self.published = out, published
        self.step, self.wanted, self.ranker, self.seed = step, wanted, ranker, seed

    def run(self, corpus: Corpus, sids: SemanticIds, chosen: list[str]) -> None:
        """Train the chosen variants, those that they start from first, and make their lists."""
        done: set[str] = set()
        for variant in chosen:
            self._train(variant, corpus, sids, done)
            if self.wanted("retrieve"):
                self._retrieve(variant, corpus, sids)
            if self.wanted("head"):
                self._item_head(variant, corpus, sids)

    def asks_ranker(self, chosen: list[str]) -> bool:
        """Whether a chosen variant, or one that it starts from, is rewarded by the CTR model."""
        chains = (chain_of(variant, self.generators) for variant in chosen)
        return any(self.generators[name].asks_ranker for chain in chains for name in chain)

    def path(self, variant: str) -> Path:
        """The model that a variant ends with."""
        folder = FOLDERS[self.generators[variant].stages[-1]]
        return (self.published or self.out) / folder / full_name(self.tokenizer, variant)

    def _train(self, variant: str, corpus: Corpus, sids: SemanticIds, done: set[str]) -> None:
        config = self.generators[variant]
        if variant in done:
            return
        done.add(variant)
        if config.after is not None:
            self._train(config.after, corpus, sids, done)
        if config.pretrain is not None and self.wanted("pretrain"):
            self._pretrain(variant, corpus, sids)
        if config.sft is not None and self.wanted("sft"):
            self._sft(variant, corpus, sids)
        if config.align is not None and self.wanted("align"):
            self._align(variant, corpus, sids)

    def _before(self, variant: str, stage: str) -> Path:
        """The model that a stage of a variant starts from."""
        config = self.generators[variant]
        place = config.stages.index(stage)
        if place == 0:
            assert config.after is not None
            return self.path(config.after)
        return self.out / FOLDERS[config.stages[place - 1]] / full_name(self.tokenizer, variant)

    def _pretrain(self, variant: str, corpus: Corpus, sids: SemanticIds) -> None:
        from dasrec.generative import pretrain
        from dasrec.generative.model.base_model import base_inputs

        config = self.generators[variant].pretrain
        assert config is not None
        out = self.out / FOLDERS["pretrain"] / full_name(self.tokenizer, variant)
        inputs = {"corpus": corpus.manifest, "semantic_ids": sids.manifest}
        inputs |= base_inputs(config.base)
        self.step(
            "pretrain", "base_model", out, config.as_json(), inputs,
            lambda: pretrain(config, corpus, sids, out, seed=self.seed, replace=True),
        )  # fmt: skip

    def _sft(self, variant: str, corpus: Corpus, sids: SemanticIds) -> None:
        from dasrec.generative import sft

        config, base = self.generators[variant].sft, self._before(variant, "sft")
        assert config is not None
        out = self.out / FOLDERS["sft"] / full_name(self.tokenizer, variant)
        inputs = {"corpus": corpus.manifest, "semantic_ids": sids.manifest}
        inputs["base_model"] = load_manifest(base, "base_model", inputs)
        self.step(
            "sft", "generator" if config.lora else "base_model", out, config.as_json(), inputs,
            lambda: sft(config, base, corpus, sids, out, seed=self.seed, replace=True),
        )  # fmt: skip

    def _align(self, variant: str, corpus: Corpus, sids: SemanticIds) -> None:
        from dasrec.cli.reward import ranker_scores
        from dasrec.generative import align
        from dasrec.generative.preference.artifact import align_inputs

        generator, start = self.generators[variant], self._before(variant, "align")
        config, out = generator.align, self.out / FOLDERS["align"]
        assert config is not None
        out = out / full_name(self.tokenizer, variant)
        scores = ranker_scores(self.ranker, corpus, sids) if generator.asks_ranker else None
        inputs = align_inputs(start, corpus, sids, scores)
        self.step(
            "align", "generator", out, config.as_json(), inputs,
            lambda: align(
                config, start, corpus, sids, out, seed=self.seed, replace=True, reward_scores=scores
            ),
        )  # fmt: skip

    def _retrieve(self, variant: str, corpus: Corpus, sids: SemanticIds) -> None:
        from dasrec.generative import retrieve
        from dasrec.generative.model.load import generator_manifest

        config, model = self.generators[variant].retrieve, self.path(variant)
        out = self.out / "recommendations" / full_name(self.tokenizer, variant)
        inputs = {"corpus": corpus.manifest, "semantic_ids": sids.manifest}
        # one of an earlier catalogue knows other inputs; `retrieve` asks whether it fits
        made_from = inputs if self.published is None else {}
        inputs = inputs | {"generator": generator_manifest(model, made_from)}
        self.step(
            "retrieve", "recommendations", out, config.as_json(), inputs,
            lambda: retrieve(config, model, corpus, sids, out, seed=self.seed, replace=True),
        )  # fmt: skip

    def _item_head(self, variant: str, corpus: Corpus, sids: SemanticIds) -> None:
        from dasrec.generative import rank_items, train_item_head
        from dasrec.generative.item_head.train import item_head_inputs

        section, model = self.generators[variant].item_head, self.path(variant)
        if section is None or not self.generators[variant].has_head(self.tokenizer):
            return
        name, seed = full_name(self.tokenizer, variant), self.seed
        head, lists = self.out / "item_heads" / name, self.out / "recommendations" / name
        inputs = item_head_inputs(model, corpus, sids)
        self.step(
            "head", "item_head", head, section.train.as_json(), inputs,
            lambda: train_item_head(
                section.train, model, corpus, sids, head, seed=seed, replace=True
            ),
        )  # fmt: skip
        out = lists.with_name(name + HEAD)
        inputs["item_head"] = load_manifest(head, "item_head", inputs)
        inputs["lists"] = load_manifest(lists, "recommendations", {"corpus": corpus.manifest})
        self.step(
            "head", "recommendations", out, section.rank.as_json(), inputs,
            lambda: rank_items(
                section.rank, head, model, lists, corpus, sids, out, seed=seed, replace=True
            ),
        )  # fmt: skip
