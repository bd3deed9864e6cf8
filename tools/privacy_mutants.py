"""What `tools/mutants.py --part privacy` breaks: each mutant takes the noise, the clipping, the sampling or a
charge out of one place, or lets a claim say more than is so. The same form as in mutant_table.py.
"""

from typing import Final

_NOISED: Final = 'return mode in ("distributed", "organisation") or (mode == "local" and stage != "training")'

MUTATIONS: Final = {
    ("node/privacy", "node/audit"): [
        ("            noise.add_to(block)\n", "", "no noise in a local step"),
        (_NOISED, f'return stage != "statistics" and ({_NOISED[7:]})', "no noise on statistics"),
        (_NOISED, f'return stage != "evaluation" and ({_NOISED[7:]})', "no noise on evaluations"),
        (
            "1 / math.sqrt(group.minimum_survivors - spent - group.colluders)",
            "0.5 / math.sqrt(group.minimum_survivors - spent - group.colluders)",
            "half the noise in every share",
        ),
        (
            "    sigma = _grid_sigma(multiplier, norm, bits, dimension)",
            "    sigma = _grid_sigma(multiplier, norm, bits, dimension) / 2",
            "half the noise in a local step",
        ),
        ("    if rate >= 1:", "    if rate > 0:", "every record in every sample"),
    ],
    ("node/privacy", "node/privacy"): [
        (
            ">= (plan.releases_per_round if releases is None else releases)",
            ">= 1",
            "one release of a round fits, and all of them are made",
        ),
        ("            np.rint(block, out=block)\n", "", "a local step beside its grid"),
        (
            "(math.ldexp(sensitivity, bits) + _ROUNDING * math.sqrt(dimension))",
            "math.ldexp(sensitivity, bits)",
            "no noise for what rounding adds",
        ),
        (
            "math.sqrt(1 + 1.25 * manifest.numeric_columns)",
            "1.0",
            "statistics are longer than their noise is for",
        ),
        ("count=self.releases_per_round,", "count=1,", "one charge for all the steps of a round"),
    ],
    ("node/training/trainer", "node/audit"): [
        (
            "return self._clipped_update(parameters, model) if self._by_organisation else model",
            "return model",
            "an organisation's update not clipped",
        ),
        (
            'privacy.clip_norm if privacy.mode in ("distributed", "local") else math.inf',
            "math.inf",
            "no clipping of gradients",
        ),
        (
            "        return sums / len(self._train) if self._by_organisation else sums",
            "        return sums",
            "an organisation's statistics not bounded",
        ),
    ],
    ("node/training/outside", "node/training_loop"): [
        (
            "self._clipped_update(parameters, end) if self._by_organisation else end",
            "end",
            "what a training loop changed is not clipped",
        ),
    ],
    ("node/training/clipping/gradient", "node/audit"): [
        (".rsqrt_().mul_(lowered).clamp_(max=1.0)", ".zero_().add_(1.0)", "gradients not clipped per record"),
    ],
    ("node/training/clipping/gradient", "node/clipping/bounds"): [
        ("            if not finite.all():\n", "            if False:\n", "one record spoils the sum"),
    ],
    ("node/training/clipping/terms", "node/clipping/bounds"): [
        (
            "    error = size / 8 * torch.finfo(vectors.dtype).eps\n",
            "    error = 0.0\n",
            "norms that rounding makes too small",
        ),
    ],
    ("node/training/clipping/sums", "node/sums"): [
        (
            "            if self._begun:\n",
            "            if False:\n",
            "blocks that are not added up by themselves",
        ),
        ("    if records > FEW:\n", "    if False:\n", "sums of any size in float32"),
    ],
    ("node/training/metrics", "node/metrics"): [
        ("np.clip(losses, 0.0, LOSS_CAP)", "losses", "one test record adds any loss"),
        ("np.clip(right, 0.0, 1.0)", "right", "one test record is right more than once"),
    ],
    ("node/contribution", "node/audit"): [
        ("        if self._noise is not None:\n", "        if False:\n", "no noise on a contribution"),
    ],
    ("node/learner", "node/learner/charging"): [
        (
            "        self._store.charge(effect.round, mechanism, effect.members)\n",
            "",
            "nothing is written to the ledger",
        ),
        (
            'pending.stage == "mixing" else group',
            'pending.stage in ("mixing", "evaluation") else group',
            "no noise on what is evaluated",
        ),
        (
            'pending.stage == "mixing" else group',
            'pending.stage in ("mixing", "statistics") else group',
            "no noise on what is counted of the columns",
        ),
        (
            "            self._budget.spend(mechanism)\n",
            "            pass\n",
            "a budget that is never spent",
        ),
        (
            "        if not plan.hides(group, spent):\n",
            "        if False:\n",
            "records where too little noise hides them",
        ),
    ],
    ("node/own_learner", "node/own_learner"): [
        (
            "Budget(manifest.privacy, store.mechanisms())",
            "Budget(manifest.privacy)",
            "what was paid is forgotten at a restart",
        ),
        (
            "return Trainer(manifest, train, records.test, system_random,",
            "return Trainer(manifest, train, records.test, bytes,",
            "samples that anybody can foresee",
        ),
        ("store, budget, system_random), budget", "store, budget, bytes), budget", "noise of zeros only"),
    ],
    ("node/storage/store", "p2pfl/resume"): [
        (
            "        return carried + [charge.mechanism",
            "        return [charge.mechanism",
            "what was carried over is not counted",
        ),
    ],
    ("node/outlook", "p2pfl/export"): [
        ("    if not is_voted(manifest, store):\n", "    if True:\n", "after a vote epsilon is that so far"),
    ],
    ("node/storage/model_file", "p2pfl/export"): [
        ("*([MARK] if own else [])", "*[]", "own records in a file that does not say so"),
    ],
    ("p2pfl/model_card", "p2pfl/export"): [
        (
            "    return [layer.name for layer in manifest.model.private_layers(manifest.task.features)]",
            "    return []",
            "a claim that covers private layers",
        ),
    ],
    ("crypto/discrete_gaussian", "crypto/discrete_gaussian_law crypto/discrete_gaussian"): [
        (
            "_SIGNS[signs].view(np.int8)[: len(out)]",
            "np.abs(_SIGNS[signs].view(np.int8)[: len(out)])",
            "noise of one sign",
        ),
        (
            "            np.multiply(self._drawn, _STRIDE, out=self._drawn)\n",
            "",
            "wide noise is as narrow as its parts",
        ),
    ],
}
