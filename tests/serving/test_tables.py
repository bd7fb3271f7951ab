"""Clocks from tables of kernel times and from published points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import llmsched as ls
from llmsched.errors import InputError, TraceError
from llmsched.serving import tables

#: Layers of the model, microseconds of attention per token of context, of a dense kernel per token, of the head.
LAYERS, ATTENTION, DENSE, HEAD = 4, 0.002, 0.5, 30.0


def kernel_tables(folder: Path) -> Path:
    """Tables of kernels that are linear in what they work on."""
    rows = [
        (chunk, 0, n, context, ATTENTION * n * context + 1e-3)
        for chunk in (0, 64, 256)
        for n in (0, 1, 8, 32, 64)
        for context in (16, 256, 1024)
        if chunk or n
    ]
    text = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
    (folder / "attention.csv").write_text(text + "".join(",".join(map(str, row)) + "\n" for row in rows))
    sizes = (1, 64, 512)
    dense = [(layer, size, 40 + DENSE * size) for layer in ("qkv_proj", "layernorm", "embedding") for size in sizes]
    (folder / "dense.csv").write_text("layer,tokens,time_us\n" + "".join(f"{a},{b},{c}\n" for a, b, c in dense))
    (folder / "per_sequence.csv").write_text(f"layer,sequences,time_us\nlm_head,1,{HEAD}\nlm_head,256,{HEAD}\n")
    return folder


def test_linear_kernels_give_their_own_clock(tmp_path: Path) -> None:
    found = tables.of_kernels(kernel_tables(tmp_path), LAYERS)
    kernels = 3 * LAYERS + 1  # a projection and two norms in every layer, and the embedding
    assert found.clock.base == pytest.approx((40 * kernels + HEAD + LAYERS * 1e-3) * 1e-6, rel=1e-2)
    assert found.clock.per_prompt_token == pytest.approx(DENSE * kernels * 1e-6, rel=1e-2)
    assert found.clock.per_request == pytest.approx(DENSE * kernels * 1e-6, rel=1e-2)
    assert found.clock.per_context_token == pytest.approx(ATTENTION * LAYERS * 1e-6, rel=1e-2)
    assert found.error < 0.01


def test_communication_is_paid_by_every_token_that_a_step_computes(tmp_path: Path) -> None:
    alone, linked = (tables.of_kernels(kernel_tables(tmp_path), LAYERS, c).clock for c in (0.0, 1e-5))
    assert linked.per_request - alone.per_request == pytest.approx(1e-5)
    assert linked.per_prompt_token - alone.per_prompt_token == pytest.approx(1e-5)
    with pytest.raises(InputError, match="communication is -1"):
        tables.of_kernels(tmp_path, LAYERS, -1)


def test_what_is_wrong_in_a_table_is_named(tmp_path: Path) -> None:
    kernel_tables(tmp_path)
    (tmp_path / "dense.csv").write_text("layer,tokens,time_us\nqkv_proj,1,fast\n")
    with pytest.raises(TraceError, match=r"dense\.csv, line 2: time_us is 'fast', expected a number"):
        tables.of_kernels(tmp_path, LAYERS)
    (tmp_path / "dense.csv").write_text("layer,time_us\n")
    with pytest.raises(TraceError, match="there is no column 'tokens'"):
        tables.of_kernels(tmp_path, LAYERS)
    (tmp_path / "dense.csv").unlink()
    with pytest.raises(TraceError, match="there is no such file"):
        tables.of_kernels(tmp_path, LAYERS)


HEADER = (
    "backend,model_path,system,precision,isl,osl,batch_size,tp_size,pp_size,attention_dp_size,moe_tp_size,moe_ep_size,"
    "silicon_ttft_ms,silicon_tpot_ms\n"
)


def points(path: Path, concurrencies: tuple[int, ...] = (1, 8, 32, 64)) -> Path:
    """Points of an engine with base 10 ms, 0.1 ms a request, 20 ns a context and 30 us a prompt token, 50 ms beside."""
    rows = []
    for isl in (128, 1024, 4096):
        for k, batch in enumerate(concurrencies):
            osl = (128, 512)[k % 2]
            tpot = 10 + 0.1 * batch + 20e-6 * batch * (isl + osl / 2) + 0.03 * batch * isl / osl
            rows.append(f"vllm,org/Some-7B,h100_sxm,fp8,{isl},{osl},{batch},2,1,1,1,1,{60 + 0.03 * isl},{tpot}\n")
    path.write_text(HEADER + "".join(rows))
    return path


def test_points_of_a_linear_engine_give_its_clock(tmp_path: Path) -> None:
    found = tables.of_points(points(tmp_path / "p.csv"))
    assert list(found) == ["some-7b-2xh100-vllm-fp8"]
    (point,) = found.values()
    clock = point.clock
    assert [clock.base, clock.per_request, clock.per_context_token, clock.per_prompt_token] == pytest.approx(
        [0.01, 1e-4, 20e-9, 3e-5], rel=1e-3
    )
    assert point.overhead == pytest.approx(0.05, rel=1e-3)
    assert point.points == 12
    assert point.tpot_error < 1e-6
    assert point.ttft_error < 1e-6


def test_engines_with_too_few_kinds_of_points_have_no_clock(tmp_path: Path) -> None:
    assert tables.of_points(points(tmp_path / "p.csv", (1, 8))) == {}


def test_published_clocks_are_those_of_the_points(data_file: Callable[[str], Path]) -> None:
    found = tables.of_points(data_file("engines/silicon_points.csv"))
    named = {name: clock for name, clock in ls.serving.clocks.items() if "points" in clock.source}
    assert len(named) >= 10
    for name, clock in named.items():
        fitted = found[name].clock
        for key in ("base", "per_request", "per_context_token", "per_prompt_token"):
            assert getattr(clock, key) == pytest.approx(getattr(fitted, key), rel=6e-3, abs=1e-12), name
        assert f"error {100 * found[name].tpot_error:.1f} %" in clock.source
        assert found[name].tpot_error < 0.05


def test_published_clocks_have_names_that_are_suggested() -> None:
    with pytest.raises(InputError, match="did you mean 'qwen3-32b-4xh100-vllm'"):
        ls.serving.clocks["qwen3-32b-4xh100-vlm"]


def test_kernel_tables_come_near_the_engine_that_runs_them(data_file: Callable[[str], Path]) -> None:
    run = data_file("engines/rtx4090_llama31_8b")
    clock = tables.of_kernels(run / "profile", 32).clock
    found = ls.serving.validate(run, clock=clock)
    assert abs(found.errors["latency"]["mean"]) < 0.05
