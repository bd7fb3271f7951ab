"""A simulation under vLLM's settings is vLLM's schedule, step for step: against recorded ones (record.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import Refused, run
from helpers.recorded_schedules import SETTINGS, differences, workload_of

import llmsched as ls
from llmsched.errors import InputError, MissingPredictionError
from llmsched.serving import written
from llmsched.serving.vllm import settings

DATA = sorted((Path(__file__).parent / "data").glob("*.json"))
SCHEDULES = {path.stem: json.loads(path.read_text()) for path in DATA}


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_simulation_is_the_schedule_of_vllm(name, engine):
    assert differences(SCHEDULES[name], engine) == []


def test_the_recorded_schedules_have_every_rule_at_work():
    assert len(SCHEDULES) >= 9
    told = {name: {schedule["engine"][name] for schedule in SCHEDULES.values()} for name in SETTINGS}
    for name in SETTINGS[:8]:
        assert len(told[name]) > 1 or name == "block_size", name
    assert {schedule["engine"]["vllm"].rpartition(".")[0] for schedule in SCHEDULES.values()} == {
        ls.serving.vllm.RELEASE
    }
    shared = {name for name, schedule in SCHEDULES.items() if sum(schedule.get("cached", ())) > 400}
    assert {name for name in SCHEDULES if "prefixes" in name or name == "sessions"} == shared
    preempted = {name for name, schedule in SCHEDULES.items() if sum(schedule["preemptions"]) >= 5}
    assert {"preemption", "chunked-preemption", "priority-preemption", "priority-chunked", "first-chunk"} <= preempted


@pytest.mark.parametrize(
    "name", ["preemption", "watermark", "chunked-arrivals", "priority-chunked", "long-prompts", "prefixes-preemption"]
)
def test_a_schedule_of_other_settings_is_seen_to_differ(name):
    """What the comparison would say of a simulator that is wrong: it can fail."""
    schedule = SCHEDULES[name]
    blocks = schedule["engine"]["num_gpu_blocks"]
    for change in (
        {"num_gpu_blocks": blocks + 1},
        {"watermark": 0.5 if schedule["engine"]["watermark"] == 0 else 0.0},
        {"max_num_batched_tokens": schedule["engine"]["max_num_batched_tokens"] + 1} if "chunk" in name else {},
        {"long_prefill_token_threshold": 39} if name == "long-prompts" else {},
        {"enable_prefix_caching": False} if name == "prefixes-preemption" else {},
    ):
        assert not change or differences({**schedule, "engine": {**schedule["engine"], **change}})


def test_settings_are_those_of_the_engine():
    made = settings(num_gpu_blocks=100, max_num_seqs=8, max_num_batched_tokens=512)
    assert made.pop("policy") == ls.policies["vllm"]
    assert made == {"memory": 1600, "block": 16, "max_batch": 8, "prefill_budget": 512, "seed": None}
    assert settings(num_gpu_blocks=9, scheduling_policy="priority")["policy"] == ls.policies["vllm-priority"]
    assert settings(num_gpu_blocks=9, scheduler_reserve_full_isl=False)["policy"].reserve == "none"
    assert settings(num_gpu_blocks=9, enable_prefix_caching=True)["policy"].prefixes == "cached"
    assert settings(num_gpu_blocks=9, long_prefill_token_threshold=7)["policy"].chunk == 7


@pytest.mark.parametrize("blocks", [1, 2, 9, 99, 100, 2588])
@pytest.mark.parametrize("watermark", [0.0, 0.001, 0.01, 0.1, 0.29, 0.5, 0.9999])
def test_the_watermark_keeps_whole_blocks_as_vllm_counts_them(blocks, watermark):
    """With a request of one block running, so many more of one block are admitted as leave the watermark."""
    budget = {"max_num_batched_tokens": 100_000, "watermark": watermark}
    options = settings(num_gpu_blocks=blocks, block_size=4, max_num_seqs=5000, **budget)
    result = ls.simulate(ls.Workload([3] * (blocks + 3), 1), **options)
    kept = min(int(watermark * (blocks + 1)), blocks)
    assert (result.start == 0).sum() == max(1, blocks - kept)


def test_requests_that_come_together_are_served_in_their_order():
    result = ls.simulate(ls.Workload([8] * 9, 2), **settings(num_gpu_blocks=1))
    assert result.start.tolist() == [2 * k for k in range(9)]


def test_by_priority_a_workload_needs_one():
    with pytest.raises(MissingPredictionError, match="needs the column 'priority'"):
        ls.simulate(ls.Workload(1, [1]), **settings(num_gpu_blocks=9, scheduling_policy="priority"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_gpu_blocks": 0}, "num_gpu_blocks must be"),
        ({"block_size": 1.5}, "block_size must be a whole number"),
        ({"max_num_seqs": 0}, "max_num_seqs must be"),
        ({"max_num_batched_tokens": -1}, "max_num_batched_tokens must be"),
        ({"watermark": 1.0}, "watermark is 1.0, expected a share of the blocks"),
        ({"watermark": "a tenth"}, "watermark is 'a tenth'"),
        ({"scheduling_policy": "prio"}, "scheduling_policy='prio' is unknown; did you mean 'priority'"),
        ({"async_scheduling": True}, "async_scheduling=True cannot be simulated: a step would be scheduled before"),
        ({"enable_chunked_prefill": False}, "Expected enable_chunked_prefill=True"),
    ],
)
def test_what_cannot_be_simulated_is_refused_by_name(given, said):
    with pytest.raises(InputError, match=said):
        settings(**{"num_gpu_blocks": 10} | given)


def test_a_system_is_written_by_its_own_settings():
    text = "vllm:num-gpu-blocks=2_588,max_num_seqs=64,watermark=0.1,scheduling-policy=priority"
    text += ",scheduler-reserve-full-isl=false"
    assert written.parse(text) == settings(
        num_gpu_blocks=2588, max_num_seqs=64, watermark=0.1, scheduling_policy="priority",
        scheduler_reserve_full_isl=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vlm:num-gpu-blocks=9", "there is no system 'vlm'; did you mean 'vllm'"),
        ("vllm", "num-gpu-blocks is missing, as in vllm:num-gpu-blocks=2587"),
        ("vllm:num-gpu-blocks", "'num-gpu-blocks' is no setting, expected NAME=VALUE"),
        ("vllm:gpu-blocks=9", "no setting 'gpu-blocks'; did you mean 'num-gpu-blocks'"),
        ("vllm:num-gpu-blocks=many", "num-gpu-blocks='many' is not a whole number"),
        ("vllm:num-gpu-blocks=9,watermark=x", "watermark='x' is not a number"),
        ("vllm:num-gpu-blocks=9,enable-prefix-caching=yes", "'yes' is not true or false"),
        ("vllm:num-gpu-blocks=9,num_gpu_blocks=8", "is given twice"),
    ],
)
def test_a_system_that_is_none_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        written.parse(text)


def test_the_command_line_simulates_a_system(tmp_path, capsys):
    schedule = SCHEDULES["chunked-arrivals"]
    trace = tmp_path / "requests.csv"
    rows = zip(*(schedule[name] for name in ("prompt", "output", "arrival")), strict=True)
    trace.write_text("prompt_tokens,output_tokens,arrival_s\n" + "".join(f"{s},{o},{a}\n" for s, o, a in rows))
    told = ",".join(f"{name}={schedule['engine'][name]}" for name in SETTINGS[:4])
    out = json.loads(run("compare", str(trace), "--rounds", "--system", f"vllm:{told}", "--policy", "amin", "--json"))
    (found,) = [row for row in out["policies"] if row["policy"] == "system vllm"]
    last = [step + 1 - a for step, a in zip(schedule["last_step"], schedule["arrival"], strict=True)]
    assert found["mean_latency"] == pytest.approx(sum(last) / len(last))
    assert found["evictions"] == sum(schedule["preemptions"])
    said = Refused(capsys)("compare", str(trace), "--rounds", "--system", f"vllm:{told}", "--memory", "9")
    assert "--memory and --system both say what it is" in said


def test_nothing_imports_vllm_or_the_serving_room_by_itself():
    code = (
        "import sys, llmsched as ls; assert 'llmsched.serving' not in sys.modules; ls.serving.vllm.settings; "
        "ls.serving.recorder.Recorder; assert 'vllm' not in sys.modules, sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_recorded_workload_fits_its_cache():
    for schedule in SCHEDULES.values():
        w = workload_of(schedule)
        assert int((w.prompt + w.output).max()) <= schedule["engine"]["num_gpu_blocks"] * 32
