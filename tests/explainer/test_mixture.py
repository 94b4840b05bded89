"""What a run learns from: several traces, of one target, each as often as it is to be seen."""

import dataclasses
import json

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer.mixture import check_target, read_mixture
from selfx.explainer.origin import Origin, check_layers, origin_of
from selfx.testing import TINY, tiny_config


@pytest.fixture(scope="module")
def traces(planted_trace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    return [planted_trace(folder / name, train=n, test=4) for name, n in (("a", 12), ("b", 8))]


def changed(trace, folder, **record):
    """A copy of a trace whose `trace.json` says something else."""
    import shutil

    copy = shutil.copytree(trace, folder / "copy")
    found = json.loads((copy / "trace.json").read_text())
    (copy / "trace.json").write_text(json.dumps(found | record))
    return copy


def test_examples_stand_one_trace_after_the_other_with_their_times(traces):
    mixture = read_mixture(traces, (1.0, 2.5), TINY)
    assert [len(mixture.examples), mixture.shares] == [20, (1.0, 2.5)]
    assert mixture.times == (1.0,) * 12 + (2.5,) * 8
    assert mixture.times_of(mixture.examples[10:14]) == [1.0, 1.0, 2.5, 2.5]
    assert mixture.origin == Origin(32, TINY.n_layers)


@pytest.mark.parametrize("times", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("inf"))])
def test_times_that_cannot_be_are_refused(traces, times):
    with pytest.raises(SelfxError, match="--times"):
        read_mixture(traces, times, TINY)


def test_traces_of_two_targets_are_refused(traces, tmp_path):
    other = changed(traces[1], tmp_path, target_hash="1" * 64)
    with pytest.raises(SelfxError, match="2 targets"):
        read_mixture([traces[0], other], (), TINY)


def test_a_trace_of_other_weights_by_the_explainers_name_is_refused(traces, tiny_lm, tmp_path):
    own = read_mixture(traces, (), TINY)
    check_target(own.records, tiny_lm)  # of another name: a cross explainer
    named = changed(traces[0], tmp_path, target=tiny_lm.name)
    records = read_mixture([named], (), TINY).records
    with pytest.raises(SelfxError, match="trace again"):
        check_target(records, tiny_lm)
    check_target([{**records[0], "target_hash": tiny_lm.hash}], tiny_lm)
    quantised = dataclasses.replace(tiny_lm, hash=f"{tiny_lm.hash}+int8")
    check_target([{**records[0], "target_hash": tiny_lm.hash}], quantised)


def test_the_target_tells_its_shape_or_vectors_do(planted):
    examples = planted(4, width=24)
    told = [{"shape": {"d_model": 24, "n_layers": 9}}]
    assert origin_of(told, examples, TINY) == Origin(24, 9)
    assert origin_of([{}], examples, TINY) == Origin(24, 2)  # up to the deepest layer met
    assert origin_of([{}], planted(4), TINY) == Origin(32, TINY.n_layers)
    with pytest.raises(SelfxError, match="different shapes"):
        origin_of([{}], [*examples, *planted(4)], TINY)
    with pytest.raises(SelfxError, match="different shapes"):
        origin_of([*told, {"shape": {"d_model": 24, "n_layers": 8}}], examples, TINY)


def test_vectors_go_in_only_after_layers_that_there_are(planted):
    examples, config = planted(2), tiny_config()
    check_layers(examples, Origin(32, 4), config, own=True, at=-1)
    check_layers(examples, Origin(32, 4), config, own=False, at=3)
    with pytest.raises(SelfxError, match="after layer 4"):
        check_layers(examples, Origin(32, 4), config, own=False, at=4)
    for layers in ((), (4,), (-1,)):
        lost = [dataclasses.replace(examples[0], layers=layers)]
        with pytest.raises(SelfxError, match=examples[0].id):
            check_layers(lost, Origin(32, 4), config, own=True, at=-1)
    none = [dataclasses.replace(examples[0], vectors=None, layers=())]
    check_layers(none, Origin(32, 4), config, own=True, at=-1)
    assert np.shape(examples[0].vectors) == (1, 32)
