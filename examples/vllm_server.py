#!/usr/bin/env python3
"""vLLM's OpenAI-compatible server with llmsched's scheduler: a client sends the same requests by each policy.

    python examples/vllm_server.py --json served.json --plot served.png       some fifteen minutes on two cores

Needs vllm (its build for CPUs will do) and openai. The model is a tiny Llama with random weights, written to a
temporary folder; lengths are those of real conversations, divided by --scale; every request brings the interval that a
real predictor's class says, calibrated on other conversations. Latency is told in steps of the engine, as llmsched's
recorder saw them in the server, and in seconds at the client, which depend on what else the machine does; requests
come by steps, too, as the recorder counts them. Which policy is first, second, ... changes from seed to seed, and
differences are those of one seed's requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import llmsched as ls
from llmsched.metrics.confidence import mean_and_half_width
from llmsched.policy_files import parse

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
OWN = "vLLM's own"
POLICIES = (OWN, "fcfs", "fcfs,order=point,name=sjf", "mcsf", "amin-recompute")
BLOCK = 32
COVERAGE = 0.8
MODEL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 128,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "float32",
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip


# What is sent ---------------------------------------------------------------------------------------------------------


def requests(data: Path, n: int, scale: int, rate: float, seed: int) -> ls.Workload:
    """`n` conversations, drawn without repetition, `rate` of which come in a step, and what a predictor says of them.

    The predictor's classes are known for other conversations: each request gets the class of one of the same length.
    """
    rng = np.random.default_rng(seed)
    real = ls.traces.load(data / "lmsys_lengths.csv")
    real = real.take(rng.permutation(len(real))[:n])
    table = np.loadtxt(data / "lmsys_predicted_classes.csv", delimiter=",", skiprows=1, usecols=(0, 1), dtype=int)
    early, late = np.array_split(table, 2)
    late = late[np.argsort(late[:, 0], kind="stable")]
    first, last = (np.searchsorted(late[:, 0], real.output, side) for side in ("left", "right"))
    nearest = np.minimum(rng.integers(first, np.maximum(last, first + 1)), len(late) - 1)
    known = ls.intervals.from_classes(early[:, 1], early[:, 0], COVERAGE)
    lower, upper = known.predict_interval(late[nearest, 1])
    assert lower is not None
    assert upper is not None
    scaled = {"prompt": real.prompt, "output": real.output, "lower": lower, "upper": upper}
    columns = {name: np.maximum(column // scale, 1) for name, column in scaled.items()}
    return ls.Workload(**columns, arrival=np.cumsum(rng.exponential(1 / rate, n)))


async def send(address: str, rows: Path, workload: ls.Workload) -> np.ndarray:
    """Sends each request before the step of its arrival, counted from now; returns the latency of each in seconds."""
    from openai import AsyncOpenAI

    async def one(i: int) -> float:
        sent = time.monotonic()
        prediction = {"lower": int(workload.lower[i]), "upper": int(workload.upper[i])}
        answer = await client.completions.create(
            model="tiny",
            prompt=[3 + (7 * i + k) % 120 for k in range(int(workload.prompt[i]))],
            max_tokens=int(workload.output[i]),
            temperature=0,
            extra_body={"ignore_eos": True, "vllm_xargs": {"llmsched": json.dumps(prediction)}},
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == workload.output[i]
        return time.monotonic() - sent

    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", timeout=600, max_retries=0) as client:
        with rows.open(encoding="utf-8") as file:  # the recorder writes a line as a step ends
            file.seek(0, os.SEEK_END)
            under_way: list[asyncio.Task[float]] = []
            steps = 0
            for i in range(len(workload)):
                while steps < workload.arrival[i] and not all(task.done() for task in under_way):
                    await asyncio.sleep(0.001)
                    steps += sum('"type": "step"' in line for line in file)
                steps = max(steps, int(workload.arrival[i]))  # nothing to do: no step comes
                under_way.append(asyncio.create_task(one(i)))
        return np.array(await asyncio.gather(*under_way))


# The server -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(policy: str, blocks: int, longest: int) -> Iterator[tuple[str, Path]]:
    """Starts vLLM's server with a policy, or its own scheduler: its address (`wait_for`), and its recorder's file."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        write_model(Path(folder))
        command = [sys.executable, *["-m", "vllm.entrypoints.openai.api_server", "--served-model-name", "tiny"]]
        command += f"--model {folder} --load-format dummy --dtype float32 --enforce-eager --host 127.0.0.1".split()
        command += f"--port {port} --gpu-memory-utilization 0.05 --block-size {BLOCK} --max-num-seqs 64".split()
        command += f"--num-gpu-blocks-override {blocks + 1} --max-model-len {longest}".split()
        command += ["--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
        command += ["--scheduler-cls", f"vllm_server.{'Own' if policy == OWN else 'Ours'}"]
        rows = Path(folder) / "rows.jsonl"
        told = {"record": str(rows)} | ({} if policy == OWN else {"policy": policy})
        command += ["--additional-config", json.dumps({"llmsched": told})]
        environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        environment |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # the model is that small
        environment |= {"PYTHONPATH": str(Path(__file__).parent)}
        with (Path(folder) / "server.log").open("w+") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                yield f"http://127.0.0.1:{port}", rows
            except ConnectionError:
                log.seek(0)
                print(f"{policy}: the server does not answer:\n{log.read()[-3000:]}", file=sys.stderr)
                raise
            finally:
                process.terminate()
                process.wait()


def wait_for(address: str, seconds: float = 600) -> None:
    """Until the server answers. Raises ConnectionError if it does not in that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return
        time.sleep(1)
    raise ConnectionError(address)


def write_model(folder: Path) -> None:
    """A configuration, and a tokenizer of as many words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    (folder / "config.json").write_text(json.dumps(MODEL))
    words = {f"w{k}": k for k in range(MODEL["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "bos_token": "w1", "eos_token": "w2"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))


def __getattr__(name: str) -> Any:
    """The schedulers that the servers name: vLLM's `Own`, and `Ours`, both recorded."""
    from llmsched.serving.recorder import AsyncRecorder, Recorder

    if name == "Own":
        return AsyncRecorder
    if name == "Ours":
        from llmsched.serving.vllm import Scheduler

        return type(name, (Recorder, Scheduler), {})
    raise AttributeError(name)


# All of it ------------------------------------------------------------------------------------------------------------


def serve(policy: str, address: str, rows: Path, workload: ls.Workload) -> dict[str, float]:
    """Latencies in steps and at the client, preemptions, and which share of the tokens was computed again."""
    before = len(rows.read_text().splitlines())
    latency = asyncio.run(send(address, rows, workload))
    seen = [json.loads(line) for line in rows.read_text().splitlines()[before:]]
    steps = [row for row in seen if row["type"] == "step"]
    ended = [row for row in seen if row["type"] == "request"]
    assert len(ended) == len(workload)
    took = np.array([row["last_step"] + 1 - row["arrival_step"] for row in ended])
    tokens = int((workload.prompt + workload.output).sum())
    once = tokens - len(workload)  # the last token of an output is never computed
    row = {
        "mean latency, steps": float(took.mean()),
        "p99 latency, steps": float(np.quantile(took, 0.99)),
        "mean latency, s": float(latency.mean()),
        "p99 latency, s": float(np.quantile(latency, 0.99)),
        "preemptions": sum(row["preemptions"] for row in ended),
        "computed again": (sum(row["scheduled"] for row in steps) - once) / tokens,
        "steps": len(steps),
        "arrived by step": max(row["arrival_step"] for row in ended) - steps[0]["step"],
    }
    print(f"  {policy}: {row}", file=sys.stderr, flush=True)
    return row


def label(policy: str) -> str:
    return policy if policy == OWN else parse(policy).name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the two traces")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scale", type=int, default=6, help="lengths are divided by it")
    parser.add_argument("--rate", type=float, default=1.25, help="requests in a step of the engine")
    parser.add_argument("--blocks", type=int, default=32, help=f"blocks of cache, of {BLOCK} tokens")
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--json", type=Path, help="write all rows")
    parser.add_argument("--plot", type=Path, help="draw them")
    chosen = parser.parse_args()
    workloads = [
        requests(chosen.data, chosen.requests, chosen.scale, chosen.rate, seed) for seed in range(chosen.seeds)
    ]
    longest = BLOCK * -(-max(int((w.prompt + w.output).max()) + 1 for w in workloads) // BLOCK)
    found: dict[str, list[dict[str, float]]] = {label(policy): [] for policy in chosen.policies}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server(p, chosen.blocks, longest)) for p in chosen.policies]
        for address, rows in servers:
            wait_for(address)
            asyncio.run(send(address, rows, workloads[0].head(20)))  # to warm up
        for seed, workload in enumerate(workloads):
            turn = [*zip(found, servers, strict=True)]
            first = seed % len(turn)
            for policy, (address, rows) in turn[first:] + turn[:first]:
                found[policy].append(serve(policy, address, rows, workload))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))
    print(table(found))
    print()
    print(table(differences(found), signed=True))
    if chosen.plot:
        draw(found, chosen.plot)


def differences(found: dict[str, list[dict[str, float]]], base: str = "fcfs") -> dict[str, list[dict[str, float]]]:
    """Of each policy to `base`, seed by seed: latencies as shares of the base's, the rest as it is."""
    return {
        policy: [
            {name: row[name] / other[name] - 1 if "latency" in name else row[name] - other[name] for name in row}
            for row, other in zip(rows, found[base], strict=True)
        ]
        for policy, rows in found.items()
        if policy != base and base in found
    }


def table(found: dict[str, list[dict[str, float]]], signed: bool = False) -> str:
    """Means over seeds, with the half-widths of their 95 % confidence intervals."""
    names = list(next(iter(found.values()))[0])
    lines = [["policy", *names], ["-"] * (len(names) + 1)]
    for policy, rows in found.items():
        cells = []
        for name in names:
            mean, half = mean_and_half_width([row[name] for row in rows])
            sign = "+" if signed else ""
            if "again" in name or (signed and "latency" in name):
                cells.append(f"{mean:{sign}.1%} ± {half:.1%}")
            else:
                digits = 2 if name.endswith(", s") else 0
                cells.append(f"{mean:{sign}.{digits}f} ± {half:.{digits}f}")
        lines.append([policy, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Mean and 99th percentile of the latency by each policy, a point for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    for axes, name in zip(
        figure.subplots(1, 2, sharey=True), ("mean latency, steps", "p99 latency, steps"), strict=True
    ):
        for k, rows in enumerate(found.values()):
            values = [row[name] for row in rows]
            mean, half = mean_and_half_width(values)
            axes.plot(values, [k] * len(values), "o", color="0.7", markersize=4)
            axes.errorbar([mean], [k], xerr=[half], fmt="o", color="#0072b2", capsize=4)
        axes.set(
            xlabel=name.replace(", steps", " (steps of the engine)"), yticks=range(len(found)), yticklabels=list(found)
        )
        axes.set_xlim(left=0)
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
