"""The command that fits what brings one model's vectors to another's width."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from selfx.cli.arguments import Model, positive


@dataclasses.dataclass(frozen=True)
class FitProjection:
    """Fit the linear map between two models' residuals on paired text, for selfx train.

    For example:
      selfx fit-projection --target smollm2-135m-instruct --explainer other/model \
        --out projections/to-other
      selfx train --data traces/patching --explainer other/model --out runs/cross \
        --projection projections/to-other
    """

    target: Model
    """The model whose vectors are to be read."""
    explainer: Model
    """The model that is to read them."""
    out: Path
    """The projection's folder."""
    data: str | None = None
    """Texts, a file or a hub id; none takes those that come with selfx."""
    tokens: int = 200_000
    """Tokens of the target to pair, at most."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """How well each layer fits."""
        from selfx import data
        from selfx.explainer.projection.files import save_projection
        from selfx.explainer.projection.fit import fit_projection
        from selfx.features.exemplars.texts import read_texts
        from selfx.progress import progress
        from selfx.run_folder import must_be_free
        from selfx.weights.load import load

        positive(tokens=self.tokens)
        must_be_free(self.out)
        texts = list(read_texts(data.text_path() if self.data is None else self.data))
        target, explainer = load(self.target), load(self.explainer)
        with progress("fitting the projection") as report:
            fitted = fit_projection(
                target, explainer, texts, limit_tokens=self.tokens, report=report
            )
        save_projection(fitted, self.out)
        shares = [round(share, 4) for share in fitted.r2]
        return {"out": str(self.out), "layers": list(fitted.layers), "r2": shares}
