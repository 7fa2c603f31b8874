"""A data root with a tiny Office-Home: single-coloured pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from common.data.office_home import DOMAINS

CLASSES = ("Alarm_Clock", "Mug")
SIZE = (48, 40)


def colour(domain: int, label: int, number: int) -> tuple[int, int, int]:
    """That of one picture; no two are alike."""
    return (60 * domain, 200 * label, 20 * number)


def example_office_home(root: Path, pictures: int) -> Path:
    """Write so many pictures of each class and domain below ``root``; returns the set's folder."""
    for domain, name in enumerate(DOMAINS):
        for label, kind in enumerate(CLASSES):
            folder = root / "office_home" / name / kind
            folder.mkdir(parents=True)
            for number in range(pictures):
                picture = Image.new("RGB", SIZE, colour(domain, label, number))
                picture.save(folder / f"{number + 1:05}.jpg", quality=95)
    return root / "office_home"
