"""The benchmarks of the engine run: figures that nobody judges, and a crowd that is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import engine, engine_figures, thousand_jobs
from bench.models import SHAPES, random_model, tokenizer_for
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.model.loading import load_model
from niels_gpt.paths import SHIPPED_CHECKPOINT


def test_every_figure_of_the_engine_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = SHAPES["tiny"]
    place = engine_figures.Place(
        packed=pack_gpt(random_model(cfg)), tokenizer=tokenizer_for(cfg), backend="asyncio",
        turns=1, tokens=8, seconds=0.02,
    )  # fmt: skip
    engine.report(place, file=tmp_path / "numbers.json")
    printed = capsys.readouterr().out
    tables = json.loads((tmp_path / "numbers.json").read_text())["tables"]
    assert list(tables) == list(engine.TABLES)
    assert all(f"## {name}" in printed and table["rows"] for name, table in tables.items())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_crowd_of_jobs_gets_the_replies_that_each_gets_alone(
    backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert thousand_jobs.main(["--jobs", "24", "--backend", backend]) == 0
    assert "faults: 0" in capsys.readouterr().out


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_wrong_bit_in_a_solo_run_is_a_fault() -> None:
    loaded = load_model(SHIPPED_CHECKPOINT)
    packed = pack_gpt(loaded.gpt)
    wanted = thousand_jobs.requests(loaded, 6, seed=1)
    decoder = KernelDecoder(packed, loaded.tokenizer, threads=1)
    solo = [thousand_jobs.alone(decoder, request) for request in wanted]
    crowd = thousand_jobs.Crowd(decoder, wanted, seed=1)
    crowd.victims.clear()
    await crowd.run()
    assert await crowd.faults(solo) == []
    solo[2] = replace(solo[2], logits_hash="another")
    assert await crowd.faults(solo) == ["job-3: a reply that is not the same bits as alone"]
