"""ResNet-50 and its experiment on ImageNet, on small files."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js

pytest.importorskip("tyro", reason="the experiments need their extra packages")
pytest.importorskip("grain", reason="reading ImageNet needs the extra packages of `imagenet`")
pytest.importorskip("PIL")

from experiments import common, dst_imagenet, networks
from experiments.common.parallel import likelier
from experiments.datasets.stream import Stream
from tests.support.imagenet_files import THREADS, put_converted, put_folder
from tests.support.processes import quick_flags

ROOT = Path(__file__).parents[2]


def test_the_network_is_resnet_50_and_all_its_kernels_are_sparse():
    model = nnx.eval_shape(lambda: networks.BottleneckNet(nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == 25_557_032
    settings = dst_imagenet.Settings()
    both = nnx.eval_shape(lambda: dst_imagenet.make(settings, 1_281_167, 1))
    masks = nnx.eval_shape(js.masks, both.model)
    assert len(masks) == 54 and sum(mask.size for mask in masks.values()) == 25_502_912
    with pytest.raises(ValueError, match=r"blocks \(3, 0\), width 64, classes 1000: give 1 or"):
        networks.BottleneckNet(nnx.Rngs(0), blocks=(3, 0))


@pytest.mark.standard_dtypes
def test_activations_are_bfloat16_and_all_else_float32():
    make = lambda: networks.BottleneckNet(nnx.Rngs(0), (1, 1), 4, 10, jnp.bfloat16)
    model = nnx.eval_shape(make)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    inner = nnx.eval_shape(lambda model, x: model.blocks(model.stem(x)), model, x)
    assert inner.dtype == jnp.bfloat16 and inner.shape == (2, 8, 8, 32)
    assert nnx.eval_shape(lambda model, x: model(x), model, x).dtype == jnp.float32


@pytest.mark.standard_dtypes
def test_the_network_computes_what_the_same_weights_do_in_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    model = nnx.jit(lambda: networks.BottleneckNet(nnx.Rngs(0), (1, 2), 4, 10))()
    model.eval()

    def conv(layer, norm, x, stride, pad):
        kernel = torch.tensor(np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1))
        x = functional.conv2d(x, kernel, stride=stride, padding=pad)
        moments = (torch.tensor(np.asarray(v[...])) for v in (norm.mean, norm.var))
        return functional.batch_norm(x, *moments, eps=1e-5)

    x = np.random.RandomState(0).normal(size=(2, 40, 36, 3)).astype(np.float32)
    y = conv(model.stem, model.norm, torch.tensor(x.transpose(0, 3, 1, 2)), 2, 3).relu()
    y = functional.max_pool2d(y, 3, 2, 1)
    for block, stride, projects in zip(model.blocks.layers, (1, 2, 1), (1, 1, 0), strict=True):
        z = conv(block.conv1, block.norm1, y, 1, 0).relu()
        z = conv(block.conv2, block.norm2, z, stride, 1).relu()
        z = conv(block.conv3, block.norm3, z, 1, 0)
        y = (z + (conv(block.shortcut, block.norm, y, stride, 0) if projects else y)).relu()
    y = y.mean(dim=(2, 3)) @ torch.tensor(np.asarray(model.head.kernel[...]))
    ours = nnx.jit(lambda model, x: model(x))(model, jnp.asarray(x))
    np.testing.assert_allclose(ours, y.numpy(), rtol=1e-3, atol=1e-3)


def test_an_image_is_right_only_where_its_class_stands_out():
    labels = jnp.arange(7)
    logits = jax.random.normal(jax.random.key(0), (7, 7))
    order = np.argsort(-np.asarray(logits), axis=1).tolist()
    assert likelier(logits, labels).tolist() == [order[n].index(n) for n in range(7)]
    assert likelier(jnp.zeros((7, 7)), labels).tolist() == list(range(7))
    assert likelier(jnp.full((7, 7), jnp.nan), labels).tolist() == 7 * [7]


# ---------------------------------------------------------------- the experiment

TINY = dst_imagenet.Settings(
    alpha=1e-2,
    density=0.5,
    batch=8,
    epochs=6,
    side=16,
    classes=3,
    blocks=(1,),
    width=4,
    every=1,
    save=1,
    scale=30.0,
    readers=THREADS,
)


@pytest.fixture
def few_devices(monkeypatch):
    """Two of the fake devices: a program split in eight compiles slowly."""
    make_mesh = jax.make_mesh
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    two = lambda *args, **options: make_mesh(*args, devices=jax.devices()[:2], **options)
    monkeypatch.setattr(jax, "make_mesh", two)


@pytest.mark.slow
@pytest.mark.standard_dtypes
def test_it_trains_on_images_with_lamb_in_bfloat16(tmp_path, few_devices, capsys):
    settings = dataclasses.replace(TINY, optimizer="lamb", bfloat16=True, epochs=4)
    data, out = str(put_folder(tmp_path / "data")), tmp_path / "run"
    dst_imagenet.main(dataclasses.replace(settings, data=data, out=str(out)))
    printed = capsys.readouterr().out
    assert "data in ImageNet's layout (11 + 4 images, 3 classes), lamb, batch 8, 4 epo" in printed
    assert "74.02" in printed and "19.24" in printed
    assert "images per second in training, 2 x cpu" in printed
    rows = common.Run(folder=out).rows()
    assert [row["step"] for row in rows] == [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["density"] < 1 and 0 <= rows[-1]["top1"] <= rows[-1]["top5"] == 1
    names = {path.name for path in out.iterdir()}
    page = {"page.html", "model.json", "masks.npz"}
    assert names == page | {"checkpoints", "settings.json", "log.jsonl", "final.json", "lock"}


def test_made_up_images_stand_beside_no_published_number(capsys):
    settings = dataclasses.replace(TINY, synthetic=True, samples=40)
    data = dst_imagenet.data_of(settings)
    assert data.samples == 40 and data.name == "made-up images (40 of 16x16)"
    assert next(data.train).images.shape == data.test()[0].images.shape == (8, 16, 16, 3)
    final = {"top1": 0.5, "top5": 1.0, "density": 0.25, "images_per_second": 12345.6}
    for synthetic in (True, False):
        dst_imagenet.show(dataclasses.replace(settings, synthetic=synthetic), final, "x")
        printed = capsys.readouterr().out
        assert ("published" in printed) != synthetic
        assert "25.00" in printed and "50.00" in printed and "12,346 images per second" in printed


@pytest.mark.slow
@pytest.mark.standard_dtypes
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, few_devices, monkeypatch, capsys):
    settings = dataclasses.replace(TINY, data=str(put_folder(tmp_path / "data")))
    whole = dataclasses.replace(settings, out=str(tmp_path / "whole"))
    dst_imagenet.main(whole)
    cut = dataclasses.replace(settings, out=str(tmp_path / "cut"))
    real, calls = Stream.__next__, []

    def killed(self):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Stream, "__next__", killed)
    with pytest.raises(KeyboardInterrupt):
        dst_imagenet.main(cut)
    dst_imagenet.main(cut)
    assert len(calls) == 4 + 3  # three steps, the kill, the three that were left
    assert "continues after step 3" in capsys.readouterr().err
    rows = [common.Run(folder=Path(s.out)).rows() for s in (whole, cut)]
    for row in [*rows[0], *rows[1]]:
        assert row.pop("images_per_second") > 0
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]
    assert rows[0][-1]["density"] < 1
    dst_imagenet.main(cut)  # complete: prints again, trains nothing
    assert len(calls) == 7


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch": 0}, "--batch got 0; give 1 or more"),
        ({"seed": -1}, "--seed got -1; give 0 or more"),
        ({"density": 0.0}, "--density is a fraction"),
        ({"alpha": 0.0}, "--alpha and --scale are above 0"),
        ({"every": 100, "save": 150}, "--save 150 is not a multiple of --every 100"),
        ({"batch": 9, "synthetic": True}, "--batch 9 cannot be split over 8 devices"),
        ({"batch": 16}, "a batch of 16 is larger than the 11 training images"),
        ({"classes": 4}, "has 3 class folders, 4 are wanted; give --classes 3"),
    ],
)
def test_bad_settings(changed, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        data = str(put_folder(tmp_path / "data"))
        dst_imagenet.main(dataclasses.replace(TINY, data=data, out=str(tmp_path), **changed))


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_goes_on(tmp_path):
    data = put_converted(tmp_path / "data")
    options = (
        f"--data {data} --alpha 1e-2 --density 0.5 --batch 8 --side 16 --classes 3 --blocks 1 "
        "--width 4 --every 1 --save 1 --epochs 4 --readers.threads 2"
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "XLA_FLAGS": quick_flags()}
    command = [sys.executable, "-m", "experiments.dst_imagenet", *options.split(), "--out"]
    alone = [*command, str(tmp_path / "alone")]
    part = f"{tmp_path / 'two'} --coordinator localhost:{port} --processes 2 --process"
    parts = [[*command, *part.split(), str(n)] for n in range(2)]
    started = [
        subprocess.Popen(each, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for each in [alone, *parts]
    ]
    for each in started:
        told = each.communicate(timeout=600)
        assert each.returncode == 0, told[1].decode()[-2000:]
    one, two = (common.Run(folder=tmp_path / name).rows() for name in ("alone", "two"))
    assert len(one) == len(two) == 4
    for mine, other in zip(one, two, strict=True):
        assert other["loss"] == pytest.approx(mine["loss"], rel=1e-2)
        assert other["density"] == pytest.approx(mine["density"], abs=0.02)
    # the run of two processes goes on as one: what is left is its last epoch
    (tmp_path / "two/final.json").unlink()
    for path in (tmp_path / "two/checkpoints").glob("step_*4"):
        shutil.rmtree(path)
    again = [*command, str(tmp_path / "two")]
    done = subprocess.run(again, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "continues after step 3" in done.stderr
    last = common.Run(folder=tmp_path / "two").rows()[-1]
    assert last["loss"] == pytest.approx(two[-1]["loss"], rel=1e-2)
