"""How a base is read: what its denoiser predicts, and which layer of its text encoders counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mascot.errors import UserError

Prediction = Literal["auto", "epsilon", "v"]
PREDICTION_TYPES: Final[Mapping[str, str]] = {"epsilon": "epsilon", "v": "v_prediction"}
"""Value of the setting -> the scheduler's word for it."""

DIFFUSION: Final = ("prediction", "zero_terminal_snr")
"""The settings that a diffusion base can take, of whatever text encoders."""


class BaseReading(BaseModel):
    """What a base's files may leave open or get wrong; the defaults take what the base says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prediction: Prediction = "auto"
    """What the denoiser predicts: noise (epsilon) or velocity."""
    zero_terminal_snr: bool | None = None
    """Whether the noise schedule ends in pure noise."""
    clip_skip: int = Field(default=0, ge=0, le=64)
    """Last layers of the CLIP text encoders that are skipped."""

    def check(self, base: str, takes: Collection[str]) -> None:
        """Refuse the settings that a family cannot use; `takes` names those that it can.

        Raises:
            UserError: a setting differs from its default, and the family cannot use it.
        """
        for name, field in type(self).model_fields.items():
            if name not in takes and (value := getattr(self, name)) != field.default:
                default = "none" if field.default is None else field.default
                raise UserError(
                    f"{name} = {str(value).lower()} has no meaning for {base}, a base of another kind; "
                    f"give --set {name}={default}."
                )

    def adjusted(self, scheduler: Any) -> Any:
        """Return a base's scheduler, or one with the same schedule that predicts as it is read.

        A schedule that ends in pure noise also starts generation there: trailing timesteps (Lin et
        al. 2023, arXiv 2305.08891, section 3.3).

        Raises:
            UserError: noise would be predicted from pure noise.
        """
        from diffusers import DDIMScheduler

        own: Mapping[str, Any] = scheduler.config
        changes: dict[str, Any] = {}
        if self.prediction != "auto" and own.get("prediction_type") != PREDICTION_TYPES[self.prediction]:
            changes["prediction_type"] = PREDICTION_TYPES[self.prediction]
        if self.zero_terminal_snr not in {None, bool(own.get("rescale_betas_zero_snr", False))}:
            changes["rescale_betas_zero_snr"] = self.zero_terminal_snr
            changes |= {"timestep_spacing": "trailing"} if self.zero_terminal_snr else {}
        kind: Any = DDIMScheduler if changes.get("rescale_betas_zero_snr") else type(scheduler)
        adjusted = kind.from_config(own, **changes) if changes else scheduler
        if adjusted.config.get("rescale_betas_zero_snr") and adjusted.config.get("prediction_type") == "epsilon":
            raise UserError(
                "zero terminal SNR ends in pure noise, of which no noise can be predicted (epsilon); "
                "give --set prediction=v, or --set zero_terminal_snr=false."
            )
        return adjusted

    def identify(self, identity: str, own: Any, adjusted: Any) -> str:
        """Return the identity of a base as it is read: its own where nothing differs.

        Args:
            identity: The hash of the base's weights.
            own: The base's scheduler.
            adjusted: What `adjusted` returned for it.
        """
        facts: dict[str, object] = {"clip_skip": self.clip_skip} if self.clip_skip else {}
        if adjusted is not own:
            names = ("prediction_type", "rescale_betas_zero_snr")
            facts |= {name: adjusted.config.get(name) for name in names}
        if not facts:
            return identity
        return hashlib.sha256(json.dumps([identity, facts], sort_keys=True).encode()).hexdigest()[:16]
