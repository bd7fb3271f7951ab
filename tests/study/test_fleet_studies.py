"""Studies of fleets: replicas and routers are factors of the cross, and each row is a simulation of that fleet."""

from __future__ import annotations

import pytest

pytest.importorskip("pydantic", reason="studies are the extra `study`")
pytest.importorskip("pyarrow", reason="studies are the extra `study`")

import llmsched as ls
from llmsched.errors import StudyError
from llmsched.metrics import catalogue
from llmsched.metrics.measure import measure
from llmsched.study import Study, failures, results
from llmsched.study.store import results as read

METRICS = ("mean_latency", "p90_latency", "evictions", "peak_share", "gap")
STUDY = Study(
    workloads=[{"generator": "lmsys", "requests": 60, "rate": 1.5}],
    policies=["fcfs", "amin"],
    memories=[1500],
    replicas=[2, 3],
    routers=["random", "least-work,work=upper", "length-classes"],
    metrics=METRICS,
    replications=3,
    seed=5,
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("fleet") / "out"
    status = STUDY.run(out, workers=2)
    assert (status.done, status.failed, status.total) == (36, 0, 36)
    return read(out).to_pylist()


def test_each_row_is_the_fleet_that_it_names(rows):
    assert {(row["replicas"], row["router"]) for row in rows} == {
        (n, router) for n in (2, 3) for router in STUDY.routers
    }  # fmt: skip
    for row in rows:
        cell = {name: row[name] for name in ("policy", "replicas", "router")}
        fleet = STUDY.simulate(row["replication"], **cell)
        assert isinstance(fleet, ls.FleetResult)
        assert (len(fleet.outcomes), fleet.router.name, fleet.seed) == (row["replicas"], row["router"], row["seed"])
        again = ls.simulate_fleet(
            fleet.workload, row["policy"], replicas=row["replicas"], router=row["router"], memory=1500, seed=row["seed"]
        )
        assert row["mean_latency"] == again.mean_latency
        assert row["evictions"] == again.total_evictions
        assert row["peak_share"] == again.peak_share
        bound = ls.lower_bound(fleet.workload, memory=1500, iterations=0, replicas=row["replicas"])
        assert row["gap"] == pytest.approx(bound.gap(again.total_latency, row["policy"]))


def test_replications_are_paired_across_routers(rows):
    for k in range(3):
        assert len({row["seed"] for row in rows if row["replication"] == k}) == 1


def test_one_replica_is_no_fleet(tmp_path):
    fields = {"workloads": [{"generator": "lmsys", "requests": 40}], "policies": ["amin"], "memories": [1500]}
    one = Study(**fields, replicas=1, replications=2, metrics=["mean_latency"])
    alone = Study(**fields, replications=2, metrics=["mean_latency"])
    tables = []
    for name, study in (("one", one), ("alone", alone)):
        study.run(tmp_path / name, workers=1)
        tables.append(results(tmp_path / name))
        assert not len(failures(tmp_path / name))
    assert tables[0]["mean_latency"].to_pylist() == tables[1]["mean_latency"].to_pylist()


def test_service_metrics_of_fleets_are_measured(tmp_path):
    study = STUDY.replace(
        metrics=("ttft_p99", "goodput"), machines=["llama2-70b-2xa100"], memories=None, replications=1
    )
    study.run(tmp_path / "out", workers=1)
    for row in results(tmp_path / "out").to_pylist():
        cell = {name: row[name] for name in ("policy", "replicas", "router")}
        fleet = study.simulate(0, **cell)
        found = measure(fleet, [catalogue.find(name) for name in ("ttft_p99", "goodput")])
        assert (row["ttft_p99"], row["goodput"]) == (found["ttft_p99"], found["goodput"])


def test_cells_choose_replicas_and_routers():
    cells = [{"replicas": [2], "routers": ["random"]}, {"replicas": [3]}]
    plan = STUDY.replace(cells=cells).plan(".")
    assert len(plan.cells) == 2 * (1 + 3)


def test_replicas_without_routers_have_the_usual_one():
    assert STUDY.replace(routers=()).routers == ("least-requests",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('routers = ["random"]', "routers choose among replicas: add replicas"),
        ('replicas = 2\nrouters = ["randm"]', "there is no router 'randm'; did you mean 'random'?"),
        ("replicas = 0", "replicas"),
        ('replicas = 2\nrouters = ["random", "random"]', "routers: 'random' is there twice"),
        ('replicas = 2\ncells = [{ routers = ["session"] }]', "'session' is not among the routers"),
    ],
)
def test_what_is_no_study_of_fleets_is_refused(text, said):
    with pytest.raises(StudyError, match=said.replace("?", r"\?")):
        Study.parse(f'workloads = ["lmsys"]\npolicies = ["amin"]\n{text}\n')
