"""Records and pictures that every reader's tests read."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image

from adaptinf.data import ImageFolder, Quarantine, encode_png

GOOD = {"id": "a", "task": "t", "skill": "s", "images": [], "instruction": "Say hi.", "response": "hi", "group": "g"}
PICTURES = [np.full((4, 5, 3), shade, np.uint8) for shade in (10, 20, 30)]
PNGS = [encode_png(PIL.Image.fromarray(picture)) for picture in PICTURES]


def read(reader, path, root, **options):
    quarantine = Quarantine(max_bad_fraction=1.0)
    samples = list(reader(path, quarantine=quarantine, images=ImageFolder(root), **{"task": "t", **options}))
    assert quarantine.seen == len(samples) + len(quarantine)
    return samples, quarantine.entries


def record(**changes) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()
