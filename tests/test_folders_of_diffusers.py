"""Folders of diffusers as `smoothjax explain --network` takes them: by diffusers' own denoised points, or refused."""

import copy
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax._commands.network import NetworkOptions, load_network

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("safetensors")

SIDE = 8
TRAIN = sj.datasets.Dataset(
    "images",
    np.random.default_rng(0).normal(size=(6, SIDE**2)).astype(np.float32),
    [0, 1, 2] * 2,
    (SIDE, SIDE, 1),
)


def _unet(**options):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        **{"sample_size": SIDE, "in_channels": 1, "out_channels": 1, **options},
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


def _save(folder, unet, **options):
    scheduler = diffusers.DDPMScheduler(clip_sample=False, **options)
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    return scheduler


SCHEDULES = [
    *((schedule, False) for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2")),
    ("linear", True),
]


@pytest.mark.parametrize(
    ("options", "label"),
    [
        *(
            (
                {"beta_schedule": schedule, "rescale_betas_zero_snr": zero, "prediction_type": one},
                None,
            )
            for schedule, zero in SCHEDULES
            for one in ("epsilon", "v_prediction", "sample")
        ),
        ({"variance_type": "learned_range"}, None),
        ({}, 2),
        ({}, "each"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_denoised_points_are_those_of_the_scheduler(tmp_path, options, label):
    unet = _unet(
        out_channels=2 if "variance_type" in options else 1,
        num_class_embeds=None if label is None else 3,
    )
    scheduler = _save(tmp_path, unet, **options)
    network = load_network(str(tmp_path), TRAIN, NetworkOptions(label=label))
    D = network[2] if isinstance(network, dict) else network
    told = {} if label is None else {"class_labels": torch.tensor([2])}
    x = np.random.default_rng(1).standard_normal((1, 1, SIDE, SIDE)).astype(np.float32)
    for t in (0, 10, 500, 998, 999):
        sigma = float(D.process.noise_level(t))
        if np.isinf(sigma):  # of zero signal, where no point is denoised
            assert t == 999 and options["rescale_betas_zero_snr"]
            continue
        # Theirs in double precision: in single, theirs and ours are each up to 7e-7 from it, as one ulp of x moves them.
        exact, double = torch.tensor(x.astype(np.float64)), copy.deepcopy(unet).double()
        with torch.no_grad():
            output = double(exact, torch.tensor([t]), **told).sample
        want = scheduler.step(output, t, exact).pred_original_sample.numpy().ravel()
        u = (x.ravel() * np.hypot(1, sigma)).astype(np.float32)
        found = D(jnp.asarray(u), np.float32(sigma))
        np.testing.assert_allclose(found, want, atol=1e-6 * np.max(np.abs(want)), rtol=0)


def test_pipelines_without_folders_of_their_own(tmp_path):
    unet = _unet(sample_size=None)
    unet.save_pretrained(tmp_path)
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    flat = load_network(str(tmp_path), TRAIN, NetworkOptions())
    _save(tmp_path / "pipeline", _unet())
    u = np.linspace(-1, 1, SIDE**2, dtype=np.float32)
    D = load_network(str(tmp_path / "pipeline"), TRAIN, NetworkOptions())
    np.testing.assert_array_equal(flat(u, 0.7), D(u, 0.7))


def test_what_is_loaded_by_no_guess(tmp_path):
    """Each of these was taken for another network, or another process, once."""
    _save(tmp_path / "good", _unet())

    def changed(name, **entries):
        def change(folder):
            path = folder / name
            path.write_text(json.dumps(json.loads(path.read_text()) | entries))

        return change

    schedulers = diffusers.FlowMatchEulerDiscreteScheduler, diffusers.ScoreSdeVeScheduler
    cases = {
        "must hold a UNet2DModel; .* holds 'UNet2DConditionModel'": changed(
            "unet/config.json", _class_name="UNet2DConditionModel"
        ),
        "are not those of its config.json: .* are missing or unknown": changed(
            "unet/config.json", num_class_embeds=3
        ),
        "must hold diffusion_pytorch_model.safetensors": lambda folder: (
            folder / "unet" / "diffusion_pytorch_model.safetensors"
        ).unlink(),
        "must hold scheduler/scheduler_config.json": lambda folder: shutil.rmtree(
            folder / "scheduler"
        ),
    } | {
        f"must have betas; .* of '{kind.__name__}'": lambda folder, kind=kind: (
            kind().save_pretrained(folder / "scheduler")
        )
        for kind in schedulers
    }
    for i, (message, change) in enumerate(cases.items()):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "good", folder)
        change(folder)
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            load_network(str(folder), TRAIN, NetworkOptions())
        assert re.search(message, str(error.value)) and "\n" not in str(error.value)
