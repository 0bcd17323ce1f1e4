"""`dasrec run`: every stage in order, each skipped where its artifact is up to date.

There is no engine: a list of steps, each with the recipe (config, inputs, seed) that its artifact
must have been made from.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from dasrec.cli.baseline_steps import run_baselines, run_fusions, run_two_tower
from dasrec.cli.baselines_config import BASELINES
from dasrec.cli.config import RunConfig
from dasrec.cli.generator_config import MAIN
from dasrec.cli.generator_steps import (
    RANKED,
    GeneratorSteps,
    base_method,
    list_names,
    split_name,
)
from dasrec.core.artifacts import Manifest, link_artifact, load_manifest
from dasrec.core.corpus import Corpus, load_corpus
from dasrec.core.descriptions import Descriptions, load_descriptions
from dasrec.core.embeddings import Embeddings, load_embeddings
from dasrec.core.semantic_ids import SemanticIds, load_sids

log = logging.getLogger(__name__)

SECONDS = "seconds.json"

STAGES = (
    "prepare",
    "describe",
    "embed",
    "baselines",
    "tokenize",
    "assign",
    "pretrain",
    "sft",
    "align",
    "retrieve",
    "head",
    "rank",
    "fuse",
    "evaluate",
)
"""Stages in the order they run."""


LAUNCHED_STAGES = ("tokenize", "pretrain", "sft")
"""Stages that several processes of `accelerate launch` can share."""


class Run:
    """A run directory and the stages that fill it.

    Layout: corpus/, descriptions/, embeddings/, tokenizers/NAME, sids/NAME, bases/NAME,
    generators/NAME, aligned/NAME, item_heads/NAME, recommendations/METHOD, rankers/NAME,
    reports/METHOD. The models and lists of a generator variant are named TOKENIZER.VARIANT.
    """

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        data_dir: Path | None = None,
        only: Collection[str] | None = None,
        methods: Collection[str] | None = None,
        variants: Collection[str] | None = None,
        fitted_on: Path | None = None,
        published: Path | None = None,
        reuse: Sequence[Path] = (),
    ) -> None:
        """Plan a run.

        Args:
            config: the whole config.
            out: the run directory.
            data_dir: raw data; not needed where `config.synthetic` is set.
            only: stages to execute; the others' artifacts must exist. None = all.
            methods: tokenizers to treat; None = all of the config, and the baselines.
            variants: generators to treat ("main" for the section `generator`); None = all.
            fitted_on: an Embeddings artifact whose encoders are used; None = fit them.
            published: the run directory of an earlier catalogue: its SIDs are extended, its
                tokenizers and generators used; None = those of this run.
            reuse: run directories whose artifacts are taken over where config, inputs and seed are
                those that this run would make them from.

        Raises:
            ValueError: no data, or an unknown method or variant.
        """
        unknown = set(methods or ()) - set(config.tokenizers)
        if unknown:
            raise ValueError(
                f"--method {', '.join(sorted(unknown))}: not in tokenizers "
                f"({', '.join(config.tokenizers)})"
            )
        unknown = set(variants or ()) - set(config.all_generators)
        if unknown:
            raise ValueError(
                f"--generator {', '.join(sorted(unknown))}: not in generators "
                f"({', '.join(config.all_generators)})"
            )
        if config.synthetic is None and data_dir is None and (only is None or "prepare" in only):
            raise ValueError(
                f"{config.name}: this config reads raw data; give its folder with --data PATH"
            )
        self.config, self.out, self.data_dir = config, out, data_dir
        self.only, self.fitted_on, self.published = only, fitted_on, published
        self.reuse = reuse
        self.restricted = methods is not None or variants is not None
        self.variants = [
            name for name in config.all_generators if variants is None or name in variants
        ]
        self.tokenizers = {
            name: section
            for name, section in config.tokenizers.items()
            if methods is None or name in methods
        }
        self.seconds: dict[str, float] = self._read_seconds()

    def execute(self) -> None:
        """Run the stages in order."""
        corpus = self._prepare()
        embeddings = self._embed(corpus, self._describe(corpus))
        self._baselines(corpus)
        for name in self.tokenizers:
            sids = self._semantic_ids(name, corpus, embeddings)
            chosen = self.variants_of(name)
            if self.generators(name).asks_ranker(chosen):
                self._rankers(corpus)
            if sids is not None:
                self.generators(name).run(corpus, sids, chosen)
        self._two_tower(corpus)
        self._rankers(corpus)
        self._rerank(corpus)
        self._fuse(corpus)
        self._evaluate(corpus)
        self.seconds = self._read_seconds()  # with those of calls side by side

    def _read_seconds(self) -> dict[str, float]:
        """Seconds of the steps that earlier calls finished, by artifact."""
        try:
            seconds: dict[str, float] = json.loads((self.out / SECONDS).read_text())
        except FileNotFoundError:
            return {}
        return seconds

    def path(self, *parts: str) -> Path:
        """A path inside the run directory."""
        return self.out.joinpath(*parts)

    def _wanted(self, stage: str) -> bool:
        return self.only is None or stage in self.only

    def _step(
        self,
        stage: str,
        kind: str,
        path: Path,
        config: Mapping[str, object],
        inputs: Mapping[str, Manifest],
        run: Callable[[], object],
    ) -> None:
        """Run a stage unless `path` already holds what it would make.

        Calls side by side on one run directory make each artifact once: the later one waits.
        """
        if self._wanted(stage):
            if not self._launched(stage):
                with _alone(path):
                    self._make(stage, kind, path, config, inputs, run)
            else:  # all processes take part; each finds the same artifact up to date or not
                with _alone(path) if _rank() == 0 else nullcontext():
                    self._make(stage, kind, path, config, inputs, run)

    def _launched(self, stage: str) -> bool:
        """Whether several processes of one launcher are at work.

        Raises:
            ValueError: they are, and the stage is not made for them.
        """
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1 and stage not in LAUNCHED_STAGES:
            raise ValueError(
                f"{stage}: runs in one process, got {processes}; launch only "
                f"{', '.join(LAUNCHED_STAGES)} with several, after the stages before it"
            )
        return processes > 1

    def _make(
        self,
        stage: str,
        kind: str,
        path: Path,
        config: Mapping[str, object],
        inputs: Mapping[str, Manifest],
        run: Callable[[], object],
    ) -> None:
        title = path.relative_to(self.out).as_posix()
        if self._up_to_date(kind, path, config, inputs):
            log.info("%-9s %s: up to date", stage, title)
            return
        for other in self.reuse:
            if self._up_to_date(kind, other / title, config, inputs):
                link_artifact(other / title, path)
                log.info("%-9s %s: taken from %s", stage, title, other)
                return
        log.info("%-9s %s ...", stage, title)
        began = time.perf_counter()
        run()
        if _rank() == 0:
            self._add_seconds(title, time.perf_counter() - began)
        log.info("%-9s %s: done in %.0f s", stage, title, time.perf_counter() - began)

    def _add_seconds(self, title: str, value: float) -> None:
        with _alone(self.out / SECONDS):
            # Read again: another call may have run other stages of this run meanwhile.
            self.seconds = self._read_seconds() | {title: value}
            scratch = self.out / f".{SECONDS}.{os.getpid()}"
            scratch.write_text(json.dumps(self.seconds, indent=2) + "\n")
            scratch.replace(self.out / SECONDS)

    def _up_to_date(
        self,
        kind: str,
        path: Path,
        config: Mapping[str, object],
        inputs: Mapping[str, Manifest],
    ) -> bool:
        try:
            manifest = load_manifest(path, kind, inputs)
        except (FileNotFoundError, ValueError):
            return False
        return (
            manifest.config == config
            and manifest.seed == self.config.seed
            and set(manifest.inputs) == set(inputs)
        )

    def _prepare(self) -> Corpus:
        from dasrec.core.prepare import describe_raw, prepare

        config, out = self.config, self.path("corpus")
        if self._wanted("prepare"):
            if config.synthetic is not None:
                self._synthetic()
            data = self.raw_dir
            self._step(
                "prepare",
                "corpus",
                out,
                config.prepare.as_json(),
                {"raw": describe_raw(config.prepare, data)},
                lambda: prepare(config.prepare, data, out, seed=config.seed, replace=True),
            )
        return load_corpus(out)

    @property
    def raw_dir(self) -> Path:
        """The folder of the raw data."""
        if self.config.synthetic is not None:
            return self.path("raw")
        if self.data_dir is None:
            raise ValueError(f"{self.config.name}: give the raw data's folder with --data PATH")
        return self.data_dir

    def _synthetic(self) -> None:
        from dasrec.core.synthetic import generate

        section, out, seed = self.config.synthetic, self.path("raw"), self.config.seed
        assert section is not None
        self._step(
            "prepare",
            "synthetic_raw",
            out,
            section.as_json(),
            {},
            lambda: generate(section, out, seed=seed, replace=True),
        )

    def _describe(self, corpus: Corpus) -> Descriptions | None:
        from dasrec.core.descriptions_stage import describe, describe_inputs

        config, out, seed = self.config.describe, self.path("descriptions"), self.config.seed
        if config is None:
            if self.only is not None and "describe" in self.only:
                raise ValueError(f"{self.config.name}: the config has no section 'describe'")
            return None
        if self._wanted("describe"):
            run = _bind(describe, config, corpus, out, seed=seed, replace=True)
            inputs = describe_inputs(config, corpus)
            self._step("describe", "descriptions", out, config.as_json(), inputs, run)
        needed = self.config.embed.reads_descriptions and self._wanted("embed")
        return load_descriptions(out, corpus) if needed else None

    def _embed(self, corpus: Corpus, descriptions: Descriptions | None) -> Embeddings | None:
        from dasrec.core.embed import embed, embed_inputs

        config, out, seed = self.config.embed, self.path("embeddings"), self.config.seed
        if self._wanted("embed"):
            data = self.raw_dir if config.reads_files else None
            earlier = self.fitted_on
            self._step(
                "embed",
                "embeddings",
                out,
                config.as_json(),
                embed_inputs(config, corpus, data, earlier, descriptions),
                _bind(
                    embed,
                    config,
                    corpus,
                    out,
                    data_dir=data,
                    descriptions=descriptions,
                    fitted_on=earlier,
                    seed=seed,
                    replace=True,
                ),
            )
        needed = self._wanted("tokenize") or self._wanted("assign")
        return load_embeddings(out, corpus) if needed else None

    def _baselines(self, corpus: Corpus) -> None:
        if self._wanted("baselines"):
            run_baselines(self.config.baselines, corpus, self.out, self._step, self.config.seed)

    def _two_tower(self, corpus: Corpus) -> None:
        section = self.config.baselines
        asked = section.two_tower is not None and section.two_tower.tokenizer in self.tokenizers
        if asked and self._wanted("retrieve"):
            assert section.two_tower is not None
            tokenizer = self._models("tokenizers", section.two_tower.tokenizer)
            run_two_tower(section, corpus, tokenizer, self.out, self._step, self.config.seed)

    def _fuse(self, corpus: Corpus) -> None:
        if self._wanted("fuse") and not self.restricted:
            run_fusions(self.config.fusions, corpus, self.out, self._step, self.config.seed)

    def _semantic_ids(
        self, name: str, corpus: Corpus, embeddings: Embeddings | None
    ) -> SemanticIds | None:
        from dasrec.tokenizer import assign, train_tokenizer

        config, seed = self.tokenizers[name], self.config.seed
        tokenizer, out = self._models("tokenizers", name), self.path("sids", name)
        if embeddings is not None:
            inputs = {"corpus": corpus.manifest, "embeddings": embeddings.manifest}
            train = _bind(
                train_tokenizer, config, corpus, embeddings, tokenizer, seed=seed, replace=True
            )
            self._step("tokenize", "tokenizer", tokenizer, config.as_json(), inputs, train)
            if self._wanted("assign"):
                section, earlier = self.config.assign, None
                if self.published is None:
                    inputs["tokenizer"] = load_manifest(tokenizer, "tokenizer", inputs)
                else:
                    earlier = self.published / "sids" / name
                    inputs["tokenizer"] = load_manifest(tokenizer, "tokenizer")
                    inputs["published"] = load_manifest(earlier, "semantic_ids")
                give = _bind(
                    assign,
                    section,
                    tokenizer,
                    corpus,
                    embeddings,
                    out,
                    published=earlier,
                    seed=seed,
                    replace=True,
                )
                self._step("assign", "semantic_ids", out, section.as_json(), inputs, give)
        later = ("pretrain", "sft", "align", "retrieve", "head")
        return load_sids(out, corpus.manifest) if any(map(self._wanted, later)) else None

    def variants_of(self, tokenizer: str) -> list[str]:
        """The chosen generators that make lists on the SIDs of a tokenizer."""
        return [name for name in self.config.variants_of(tokenizer) if name in self.variants]

    def generators(self, tokenizer: str) -> GeneratorSteps:
        """The generators of a tokenizer."""
        return GeneratorSteps(
            tokenizer,
            self.config.all_generators,
            self.out,
            self.published,
            self._step,
            self._wanted,
            self.path("rankers", tokenizer),
            self.config.seed,
        )

    def generator_path(self, name: str) -> Path:
        """What made the lists of a method: the model that a generator's stages end with."""
        tokenizer, variant = split_name(name)
        return self.generators(tokenizer).path(variant or MAIN)

    def _models(self, kind: str, name: str) -> Path:
        """A trained model: of this run, or of the earlier one whose SIDs are extended."""
        return (self.published or self.out) / kind / name

    def _rankers(self, corpus: Corpus) -> None:
        """Train the CTR model on SIDs and its twin on ids alone."""
        from dasrec.ranking import train_ranker

        section, seed = self.config.ranking, self.config.seed
        if section is None or not self._wanted("rank") or section.tokenizer not in self.tokenizers:
            return
        sids = load_sids(self.path("sids", section.tokenizer), corpus.manifest)
        plain, inputs = self.path("rankers", "id_only"), {"corpus": corpus.manifest}
        run = _bind(train_ranker, section.train, corpus, None, plain, seed=seed, replace=True)
        self._step("rank", "ranking_model", plain, section.train.as_json(), inputs, run)
        ranker = self.path("rankers", section.tokenizer)
        inputs["semantic_ids"] = sids.manifest
        run = _bind(train_ranker, section.train, corpus, sids, ranker, seed=seed, replace=True)
        self._step("rank", "ranking_model", ranker, section.train.as_json(), inputs, run)

    def _rerank(self, corpus: Corpus) -> None:
        from dasrec.ranking import rerank

        section = self.config.ranking
        if section is None or not self._wanted("rank") or section.tokenizer not in self.tokenizers:
            return
        candidates = self.path("recommendations", section.tokenizer)
        if not candidates.exists():
            return  # no generator
        sids = load_sids(self.path("sids", section.tokenizer), corpus.manifest)
        ranker = self.path("rankers", section.tokenizer)
        inputs = {"corpus": corpus.manifest, "semantic_ids": sids.manifest}
        inputs["ranking_model"] = load_manifest(ranker, "ranking_model", inputs)
        inputs["candidates"] = load_manifest(candidates, "recommendations")
        out = self.path("recommendations", section.tokenizer + RANKED)
        config, seed = section.rerank, self.config.seed
        run = _bind(rerank, config, ranker, candidates, corpus, sids, out, seed=seed, replace=True)
        self._step("rank", "recommendations", out, config.as_json(), inputs, run)

    @property
    def methods(self) -> list[str]:
        """Methods asked for that have recommendations, in the order of the tables."""
        section, ranking = self.config.baselines, self.config.ranking
        names = [name for name in BASELINES if getattr(section, name) is not None]
        if self.restricted:
            names = []
        for name in self.tokenizers:
            for variant in self.variants_of(name):
                names += list_names(name, variant, self.config.all_generators[variant])
        if ranking is not None and ranking.tokenizer in self.tokenizers:
            names.append(ranking.tokenizer + RANKED)
        if not self.restricted:
            names += self.config.fusions
        return [name for name in names if self.path("recommendations", name).exists()]

    def _evaluate(self, corpus: Corpus) -> None:
        from dasrec.eval.report import evaluate_recommendations

        if not self._wanted("evaluate"):
            return
        config, seed = self.config.eval, self.config.seed
        vectors = self.path("embeddings")
        embeddings = load_embeddings(vectors, corpus) if vectors.exists() else None
        for name in self.methods:
            lists, out = self.path("recommendations", name), self.path("reports", name)
            sids_path = self.path("sids", split_name(base_method(name))[0])
            sids = load_sids(sids_path, corpus.manifest) if sids_path.exists() else None
            inputs = {
                "corpus": corpus.manifest,
                "recommendations": load_manifest(lists, "recommendations"),
            }
            if sids is not None:
                inputs["semantic_ids"] = sids.manifest
            if embeddings is not None:
                inputs["embeddings"] = embeddings.manifest
            run = _bind(
                evaluate_recommendations,
                config,
                name,
                lists,
                corpus,
                out,
                sids=sids,
                embeddings=embeddings,
                seed=seed,
                replace=True,
            )
            recipe = {**config.as_json(), "method": name}
            self._step("evaluate", "eval_report", out, recipe, inputs, run)


def _rank() -> int:
    """Number of this process among those of a launcher."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other calls off a path, dead ones excepted (the lock ends with its process)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("%s: waiting for another call that makes it", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _bind(function: Callable[..., object], *args: object, **kwargs: object) -> Callable[[], object]:
    return lambda: function(*args, **kwargs)
