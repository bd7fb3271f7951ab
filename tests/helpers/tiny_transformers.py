"""transformers' continuous batching with a tiny Llama of random weights, in this process, a step at a time."""

from __future__ import annotations

from typing import Any

import llmsched as ls

PAGE = 32


def manager(blocks: int, *, policy: str = "amin-recompute", predict: Any = None, **settings: Any) -> Any:
    """A manager of continuous batching whose cache has so many blocks, with a policy of llmsched; it has no thread."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    from llmsched.serving.transformers_scheduler import register

    ours = {name: settings.pop(name) for name in ("seed", "patience") if name in settings}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            vocab_size=128, max_position_embeddings=2048,
        )
    )  # fmt: skip
    chosen: dict[str, Any] = {
        "page_size": PAGE, "num_blocks": blocks, "max_batch_tokens": 512, "max_requests_per_batch": 16,
        "allow_block_sharing": False, "use_async_batching": False,
    }  # fmt: skip
    return model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=1),
        continuous_batching_config=ContinuousBatchingConfig(
            scheduler_type=register(policy, predict=predict, **ours), **(chosen | settings)
        ),
    )


class Stepped:
    """What the manager's thread does, a step at a time."""

    def __init__(self, made: Any) -> None:
        self.manager = made
        self.processor = made.batch_processor = made._create_batch_processor()
        self.scheduler = self.processor.scheduler
        self.step_count = 0
        self.preemptions: dict[str, int] = {}
        self.started: dict[str, int] = {}
        own = self.scheduler._preempt

        def counted(id: str) -> None:
            self.preemptions[id] = self.preemptions.get(id, 0) + 1
            own(id)

        self.scheduler._preempt = counted

    def add(self, id: str, prompt: list[int], output: int, **options: Any) -> None:
        self.manager.add_request(prompt, request_id=id, max_new_tokens=output, **options)

    def step(self) -> list[Any]:
        """A step; who finished in it, or failed."""
        if self.processor.prepare_next_batch():
            for id in self.scheduler.active_requests:
                self.started.setdefault(id, self.step_count)
            self.manager._generation_step()
            self.processor.update_batch()
        self.check()
        self.step_count += 1
        queue, outputs = self.manager.output_router.output_queue, []
        while not queue.empty():
            outputs.append(queue.get())
        return outputs

    def check(self) -> None:
        """Nobody is lost, and the cache that is taken is no more than what the policy counts."""
        scheduler = self.scheduler
        active, waiting = {*scheduler.active_requests}, {*scheduler.waiting_requests}
        assert not active & waiting
        assert {*scheduler.waiting_requests_order} == waiting
        known = {id for id in active | waiting if id in scheduler.core}
        assert known == active | waiting
        ended = {*scheduler._finished}
        assert len(scheduler.core) == len(known | ended)
        (allocator,) = scheduler.cache.cache_allocators.values()
        taken = sum(len(blocks) for blocks in allocator.block_table.values()) * PAGE
        assert taken <= scheduler.core.memory
        assert scheduler.core.need <= scheduler.core.memory + PAGE * scheduler.core.running  # before the next decision


def prompt_of(workload: ls.Workload, i: int) -> list[int]:
    return [3 + (i * 7 + k) % 120 for k in range(int(workload.prompt[i]))]


def serve(stepped: Stepped, workload: ls.Workload, most_steps: int = 20_000) -> dict[str, list[int]]:
    """Sends each request before the step of its arrival; the steps in which each started and completed, preemptions."""
    n = len(workload)
    to_come = sorted(range(n), key=lambda i: (workload.arrival[i], i), reverse=True)
    completion, outputs = [-1] * n, [[]] * n
    while to_come or -1 in completion:
        assert stepped.step_count < most_steps, "the engine does not come to an end"
        while to_come and workload.arrival[to_come[-1]] <= stepped.step_count:
            i = to_come.pop()
            stepped.add(str(i), prompt_of(workload, i), int(workload.output[i]))
        for output in stepped.step():
            assert output.error is None, output.error
            completion[int(output.request_id)] = stepped.step_count
            outputs[int(output.request_id)] = output.generated_tokens
    return {
        "start": [stepped.started[str(i)] for i in range(n)],
        "completion": completion,
        "evictions": [stepped.preemptions.get(str(i), 0) for i in range(n)],
        "outputs": outputs,
    }
