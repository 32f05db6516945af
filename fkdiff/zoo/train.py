"""Training recipes of the bundled models: `python -m fkdiff.zoo.train STAGE --out DIR`.

The stages, in order: vae, latents, clip, emoji, export. Each resumes exactly with --resume.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from fkdiff.zoo.autoencoder import AutoencoderTask
from fkdiff.zoo.denoiser import DenoiserTask
from fkdiff.zoo.dual_encoder import DualEncoderTask
from fkdiff.zoo.export import export_dual_encoder, export_pipeline, load_autoencoder
from fkdiff.zoo.latents import LatentData, cache_latents
from fkdiff.zoo.loop import Fit, Trainer
from fkdiff.zoo.sprites import Sprites, fetch, load_art

__all__ = ["STAGES", "main"]

_HERE = Path(__file__).parent


def _sprites(args: argparse.Namespace) -> Sprites:
    return Sprites(load_art(fetch(args.out / "cache")))


def _run(trainer: Trainer, args: argparse.Namespace) -> None:
    if args.resume:
        trainer.resume()
    trainer.run()


def _vae(args: argparse.Namespace) -> None:
    fit = Fit(args.images // 8, lr=2e-3, hold=0.4, weight_decay=0.0, seed=args.seed)
    _run(AutoencoderTask(_sprites(args), fit, args.out / "vae").trainer, args)


def _latents(args: argparse.Namespace) -> None:
    model, folder = load_autoencoder(args.out), args.out / "latents"
    cache_latents(model, _sprites(args), args.images, folder, seed=args.seed, resume=args.resume)


def _emoji(args: argparse.Namespace) -> None:
    fit = Fit(args.images // 32, lr=5e-4, hold=0.3, ema=0.999, seed=args.seed)
    data = LatentData.load(args.out / "latents")
    _run(DenoiserTask(data, fit, args.out / "emoji").trainer, args)


def _clip(args: argparse.Namespace) -> None:
    fit = Fit(args.images // 64, lr=1e-3, hold=0.3, seed=args.seed)
    vae = load_autoencoder(args.out)
    _run(DualEncoderTask(_sprites(args), vae, fit, args.out / "clip").trainer, args)


def _export(args: argparse.Namespace) -> None:
    if (args.out / "emoji").exists():
        export_pipeline(args.out, _HERE / "emoji")
    if (args.out / "clip").exists():
        export_dual_encoder(args.out, _HERE / "emoji_clip")


# Stage -> what it does, and how many images it sees by default.
STAGES: dict[str, tuple[Callable[[argparse.Namespace], None], int]] = {
    "vae": (_vae, 60_000),
    "latents": (_latents, 100_000),
    "clip": (_clip, 100_000),
    "emoji": (_emoji, 200_000),
    "export": (_export, 0),
}


def main(argv: list[str] | None = None) -> None:
    """Parses a command line and runs one stage."""
    parser = argparse.ArgumentParser(prog="python -m fkdiff.zoo.train", description=__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--out", type=Path, default=Path("training/zoo"))
    parser.add_argument("--images", type=int, help="how many the stage sees; each has a default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    stage, images = STAGES[args.stage]
    args.images = args.images or images
    stage(args)


if __name__ == "__main__":
    main()
