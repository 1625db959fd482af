"""``ddimkit plan``: a sampler's table."""

import json

from ddimkit.cli.arguments import (
    EtaOption,
    JsonOption,
    ModelOption,
    SamplerOption,
    SpacingOption,
    StepsOption,
    TimestepsOption,
    find_model,
    make_sampler,
)

__all__ = ["plan"]


def plan(
    model: ModelOption = "mnist",
    sampler: SamplerOption = "ddim",
    steps: StepsOption = None,
    timesteps: TimestepsOption = None,
    spacing: SpacingOption = None,
    eta: EtaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a sampler's table: one row of coefficients a step.

    Examples:

        ddimkit plan --steps 10

        ddimkit plan --sampler ddpm --timesteps 999,500,24 --json
    """
    table = make_sampler(find_model(model), sampler, steps, timesteps, spacing, eta).plan()
    print(json.dumps(table.to_dict()) if as_json else table)
