#!/usr/bin/env bash
# What diffusers' DDPMScheduler makes of the folder of a scheduler of another forward process.
#
# Seen with diffusers 0.42.1, torch 2.13.0 (CPU), Python 3.11: `DDPMScheduler.from_pretrained` takes the folder of a
# FlowMatchEulerDiscreteScheduler or an EDMEulerScheduler without an error or a line of warning. What the folder does not say
# comes from defaults: linear betas, a network that predicts noise. For a network trained by flow matching the signal at the
# last step is then .006 in place of 0, and the prediction is read as noise where it is a velocity: at the middle step a
# perfect network's point at 2 is denoised to 9.6.
#
# One would expect the class name in scheduler_config.json to be compared, or the missing betas to be refused. The config that is
# saved for EDM says `prediction_type: epsilon`, which is also what a variance-preserving network of noise says.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "diffusers==0.42.1" "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/check.py" <<'PY'
import json
import sys
from pathlib import Path

import diffusers
import torch

folder = Path(sys.argv[1])
for name in ("FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"):
    place = folder / name
    getattr(diffusers, name)().save_pretrained(place)
    config = json.loads((place / "scheduler_config.json").read_text())
    assert config["_class_name"] == name and "beta_schedule" not in config
    taken = diffusers.DDPMScheduler.from_pretrained(place, clip_sample=False)
    signal = float(taken.alphas_cumprod[-1].sqrt())
    print(name, "is taken as", taken.config.beta_schedule, taken.config.prediction_type, f"signal at the end {signal:.4f};",
          "its config says", config.get("prediction_type"))
    assert taken.config.beta_schedule == "linear", "the betas are no longer the default's"
    assert taken.config.prediction_type == "epsilon", "the prediction is no longer noise"
    assert 0.005 < signal < 0.007
    # A perfect network of flow matching, of data at 2, whose prediction is the velocity noise - data.
    if name.startswith("Flow"):
        data, noise, t = torch.tensor([[2.0]]), torch.tensor([[0.5]]), 500
        share = (t + 1) / 1000
        x = (1 - share) * data + share * noise
        found = float(taken.step(noise - data, t, x, generator=torch.Generator().manual_seed(0)).pred_original_sample)
        print(f"of a point at 2 the clean one is found at {found:.2f}")
        assert 9 < found < 10, "the velocity is no longer read as noise"
PY
"$folder/venv/bin/python" "$folder/check.py" "$folder" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
echo "on stderr:" && cat "$folder/errors"
