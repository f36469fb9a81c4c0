"""What is said beside scores: how they were measured, what was left out, and what is not to be trusted."""

import numpy as np

from diffusion.evaluation.reference import COVERAGE_K, PRECISION_K, FeatureSet, Reference
from diffusion.evaluation.scale import blindness, narrowness
from diffusion.records.results import Scores


def protocol(
    source: str, reference: Reference, found: FeatureSet, scores: Scores, subsets: tuple[int, int], splits: int
) -> Scores:
    """How the images that come from `source` were scored.

    Args:
        scores: of the images, with those of real test images under "real".
        subsets: of KID, their number and how many images they hold.
        splits: of the Inception Score.
    """
    data, features = reference.data, reference.features
    return {
        "images": source,
        "n": found.n,
        "data": f"{data.name}, {data.fingerprint()} (train), {data.fingerprint('test')} (test)",
        "reference": reference.description,
        "floor": f"{scores['real']['n']} test images of {data.name}, against the same reference",
        "scorer": features.name,
        **({"doubt": features.doubt} if features.doubt else {}),
        "features": len(reference.moments.mean),
        "preprocessing": features.preprocessing,
        "quantisation": "uint8; samples of a model are rounded, then clamped",
        "neighbours": (
            f"precision and recall with k = {PRECISION_K}, density and coverage with k = {COVERAGE_K}, KID with "
            f"all pairs: {len(found.features)} images against {reference.kept_description}"
        ),
        "scale": (
            f"{scores['scale']['n']} test images, the same blurred by a mean over neighbouring pixels, as many images "
            "of uniform noise, and as many black ones, all against the same reference"
        ),
        "kid_subsets": f"{subsets[0]} of {subsets[1]} images",
        "inception_score_splits": splits,
        "copies": (
            "not looked for"
            if scores["memorisation"] is None
            else f"all images against the {len(data.train)} training images of {data.name}, in pixels"
        ),
    }


def notes(reference: Reference, found: FeatureSet, scores: Scores) -> list[str]:
    """What was left out, or is not to be trusted, and why; one sentence each. Arguments as in `protocol`."""
    d, n, real = len(reference.moments.mean), found.n, scores["real"]
    narrow, doubt = narrowness(scores["scale"]), reference.features.doubt
    said = [f"{doubt}."] if doubt else []
    if narrow:
        more = ": more test images would tell more" if scores["scale"]["n"] <= d else ""
        said.append(f"{narrow}, so these scores mean little{more}.")
    blind = blindness(scores["scale"])
    if blind:
        said.append(blind)
    if n <= d:
        said.append(f"n = {n} is not larger than the {d} features, so the FID is unreliable.")
    if real["whole_test_set"]:
        said.append(
            f"There are only {real['n']} real test images, so the real column is not at the same n; † stands where "
            "a ratio would mislead."
        )
    if scores["fid_infinite"] is None:
        said.append(f"FID∞ and the spread over subsets need more than {2 * d} images, and are left out.")
    if scores["inception_score"] is None:
        said.append("Inception Score and accuracy need class probabilities, which these features have not.")
    elif found.labels is None:
        said.append("These images have no labels, so the scores per class and the accuracy are left out.")
    elif not reference.features.recognises_classes:
        said.append("These features come from a network with other classes, so the accuracy is left out.")
    if _other_proportions(reference, found):
        said.append(
            "The classes of these images stand in other proportions than those of the training images, which "
            "worsens the scores that compare whole sets."
        )
    if scores["class_fid"] and all(value is None for value in scores["class_fid"]):
        said.append(f"FID per class needs more than {d} images of a class, and is left out.")
    if scores["memorisation"] is None:
        said.append("The training images do not fit in memory, so no copies of them were looked for.")
    if scores["precision"] is None:
        said.append(f"Precision, recall, density and coverage need more than {COVERAGE_K} images.")
    return said


def _other_proportions(reference: Reference, found: FeatureSet) -> bool:
    """Whether the classes' shares differ by more than 0.1 in all; with few images nobody can say."""
    real, kinds = reference.data.train.labels, len(reference.data.class_names)
    if real is None or found.labels is None or found.n < 20 * kinds:
        return False
    share, real_share = (np.bincount(x, minlength=kinds) / len(x) for x in (found.labels, real.cpu().numpy()))
    return bool(np.abs(share - real_share).sum() > 0.1)
