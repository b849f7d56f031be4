"""When a stage ends, and what is measured while it trains and after it, as keys of a stage."""

from typing import Annotated, Literal

from pydantic import Field

from remix_toolkit.recipe.ranges import Count
from remix_toolkit.recipe.strict import Strict, exactly_one


class Stop(Strict):
    """End the stage early: once the loss was under `loss_below` at `times` optimizer steps, in a row or not."""

    loss_below: Annotated[float, Field(gt=0)] = Field(description="a step counts whose loss was below this")
    times: Count = Field(10, description="how many such steps end the stage")


class Match(Strict):
    """A compute-matched control: train for as long as another arm's stage of the same name, whatever the data."""

    steps_of: str | None = Field(None, description="an arm of the sweep (or a stage's key): as many optimizer steps")
    tokens_of: str | None = Field(None, description="an arm of the sweep (or a stage's key): as many trained tokens")

    _check = exactly_one("set either `steps_of` or `tokens_of`, to an arm", "steps_of", "tokens_of")

    @property
    def other(self) -> str:
        """The arm, or the key of its stage once that is resolved."""
        return str(self.steps_of or self.tokens_of)


class Curve(Strict):
    """Recall of the earlier stages' facts while this stage trains, by a scoring pass at every interval."""

    steps: Count | None = Field(None, description="optimizer steps between two measurements")
    epochs: Count | None = Field(None, description="epochs between two measurements")

    _check = exactly_one("set either `steps` or `epochs`, to how many", "steps", "epochs")


# lens: where the facts that are measured show (figure 4); interference: gradients and weights against the first stage;
# noise, relearn, drift: how firmly facts are held (evaluate/robustness.py)
Probe = Literal["lens", "interference", "noise", "relearn", "drift"]
