"""A diffusion policy as a diffusers pipeline: save, load, decide, with warm starts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

# Imported by the name that a saved pipeline gives it, before diffusers looks for it.
from fkdiff.policy.actions import DiscreteActions
from fkdiff.policy.calibration import Calibration
from fkdiff.policy.levels import Levels
from fkdiff.policy.network import ChunkDenoiser
from fkdiff.policy.sampler import ChunkSampler, Decision
from fkdiff.policy.warm_start import WarmStart

__all__ = ["PolicyOutput", "WarmStartPolicyPipeline"]

CALIBRATION = "calibration.json"


@dataclass
class PolicyOutput(BaseOutput):
    """Chunks of actions and how they were decided.

    Arguments:
        actions: Shape (n, H, D).
        decision: Which were cold, and what they cost.
    """

    actions: Tensor
    decision: Decision


class WarmStartPolicyPipeline(DiffusionPipeline):
    """Decides chunks of actions for observations; starts from the last chunk where it can.

    Arguments:
        denoiser: Network (sample (n, H, D), timestep, observation (n, O)) -> prediction, whose
            config names `horizon`, `action_size` and `observation_size`.
        scheduler: The scheduler it was trained with; it is read, never changed.
        warm_start: Settings, a `WarmStart` or its fields; None decides from noise always.
        calibration: What `calibrate` measured; `save_pretrained` keeps it beside the weights.
        seed: Seed of all noise.

    Raises:
        ValueError: If a setting is out of range or lacks its calibration.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> net = ChunkDenoiser(horizon=4, action_size=2, observation_size=3, width=8, depth=1)
        >>> policy = WarmStartPolicyPipeline(net, DDIMScheduler(100), WarmStart(start=20))
        >>> policy(torch.zeros(5, 3)).actions.shape
        torch.Size([5, 4, 2])
    """

    def __init__(
        self,
        denoiser: ChunkDenoiser,
        scheduler: Any,
        warm_start: WarmStart | dict[str, Any] | None = None,
        calibration: Calibration | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)
        warm = _settings(warm_start)
        self.register_to_config(warm_start=None if warm is None else asdict(warm), seed=seed)
        self.calibration = calibration
        config: Any = denoiser.config
        self.sampler = ChunkSampler(
            denoiser,
            Levels.of(scheduler),
            (config.horizon, config.action_size),
            warm,
            calibration,
            config.observation_size,
            seed=seed,
        )

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget the chunks of environments whose episode ended, None for all."""
        self.sampler.reset(env_ids)

    def __call__(
        self,
        observation: Tensor,
        env_ids: Sequence[int] | None = None,
        executed: int = 1,
        return_dict: bool = True,
    ) -> PolicyOutput | tuple[Tensor]:
        """Decide for n environments, see `ChunkSampler.decide`.

        Arguments:
            observation: Shape (n, O), finite.
            env_ids: A number for each environment, None for 0 to n - 1.
            executed: Actions executed since the last decision.
            return_dict: False for a plain tuple (actions,).
        """
        decision = self.sampler.decide(observation, env_ids, executed)
        return PolicyOutput(decision.actions, decision) if return_dict else (decision.actions,)

    def save_pretrained(self, save_directory: Any, *arguments: Any, **keywords: Any) -> None:
        """Write the pipeline as diffusers does, and the calibration beside it."""
        super().save_pretrained(save_directory, *arguments, **keywords)
        if self.calibration is not None:
            self.calibration.save(Path(save_directory) / CALIBRATION)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, path: Any, *arguments: Any, **keywords: Any
    ) -> "WarmStartPolicyPipeline":
        """Load what `save_pretrained` wrote; the constructor's keywords override it."""
        file = Path(path) / CALIBRATION
        if "calibration" not in keywords and file.exists():
            keywords["calibration"] = Calibration.load(file)
        return cast(Any, super()).from_pretrained(path, *arguments, **keywords)


def _settings(warm: WarmStart | dict[str, Any] | None) -> WarmStart | None:
    if warm is None or isinstance(warm, WarmStart):
        return warm
    discrete, skipping = warm.get("discrete"), warm.get("skipping")
    if isinstance(discrete, dict):
        discrete = DiscreteActions(**{**discrete, "dims": tuple(discrete["dims"])})
    skipping = None if skipping is None else tuple(skipping)
    return WarmStart(**{**warm, "discrete": discrete, "skipping": skipping})
