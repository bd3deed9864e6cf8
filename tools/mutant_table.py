"""What tools/mutants.py breaks: by module, and by the tests that should notice, the quick ones first, the
exact old text, which must occur once, the new one, and what is broken by it.
"""

from typing import Final

MUTATIONS: Final = {
    ("gossip/thresholds", "gossip/thresholds"): [
        (
            "threshold = (members + colluders) // 2 + 1",
            "threshold = (members + colluders + 1) // 2",
            "t is one too small: two sets can be settled",
        ),
        ("threshold - colluders < 2", "threshold - colluders < 1", "a sum may be over one honest member"),
        (
            "Thresholds(members, colluders, threshold, threshold,",
            "Thresholds(members, colluders, threshold, threshold - 1,",
            "sums over fewer than t members",
        ),
    ],
    ("crypto/linear_check", "crypto/linear_check"): [
        ("CHECKS: Final = 40", "CHECKS: Final = 1", "one check word only"),
        ('f"chunk {number}"', '"chunk"', "the same coins for every chunk: errors may cancel"),
        (
            "np.unpackbits(octets).reshape(out.shape)",
            "np.ones(out.shape)",
            "coins that are none: sums of all elements",
        ),
        ('_seed(seed, "right")', '_seed(bytes(32), "right")', "known coins from the right"),
        ('_seed(seed, "last")', '_seed(bytes(32), "last")', "known coins in the last step"),
        (
            'labels.CHECK_SEED + b"\\0" + seed + purpose.encode()',
            'labels.CHECK_SEED + b"\\0" + purpose.encode()',
            "coins that are known before the sums are",
        ),
    ],
    ("gossip/masking", "gossip/masked_sums gossip/masking"): [
        (
            "return self._suite.derive(seed, labels.SELF_MASK, self._roster.digest)",
            "return bytes(32)",
            "a self-mask that everybody knows",
        ),
        (
            "self._suite.derive(seed, labels.SELF_MASK, self._roster.digest)",
            'self._suite.derive(seed, labels.SELF_MASK, b"")',
            "no roster digest in the self-mask",
        ),
        (
            "return self._suite.agree(secret, public, labels.PAIRWISE_MASK, context)",
            "return bytes(32)",
            "a mask between two that everybody knows",
        ),
        (
            "context = self._roster.digest + bytes(sorted((owner, other)))",
            "context = bytes(sorted((owner, other)))",
            "no roster digest in the masks between two",
        ),
        (
            "(added if other > self._me else taken).append(seed)",
            "(added if other > self._me else taken).append(seed) if other == self._others[0] else None",
            "one mask with one other member instead of with all",
        ),
        (
            "context = self._roster.digest + bytes((dealer, recipient))",
            "context = self._roster.digest",
            "a bundle can be handed back to its dealer",
        ),
    ],
    ("gossip/masking", "gossip/masking"): [
        (
            "context = self._roster.digest + bytes(sorted((owner, other)))",
            "context = self._roster.digest",
            "a member with the key of another makes masks cancel",
        ),
        (
            "holders, threshold = len(self._roster.members), self._roster.thresholds.threshold",
            "holders, threshold = len(self._roster.members), self._roster.thresholds.threshold - 1",
            "shares that fewer than t put together",
        ),
        ("        del self._secrets", "        pass", "secrets are kept after the sum"),
    ],
    ("gossip/secure_sum", "gossip/secure_sum gossip/round gossip/round_machine"): [
        (
            "tuple(held.seed if peer in chosen else held.key for",
            "tuple(held.key if peer in chosen else held.seed for",
            "reveals the other secret of everybody",
        ),
        (
            "self._reveals[self._me] = self._seat.broadcast(reveal, chosen)",
            "self._reveals[self._me] = self._seat.broadcast(reveal)",
            "reveals to those who are left out, too",
        ),
        (
            "        if self._settled is not None:\n            return\n        votes",
            "        votes",
            "settles, and reveals, again and again",
        ),
        (
            "        if self._me not in self._ballots:\n            choice",
            "        if True:\n            choice",
            "signs more than one set",
        ),
        ("if count >= threshold]", "if count >= threshold - 1]", "settles with one signature too few"),
        (
            "        self._seat.check_survivors(ballot.author, ballot.entries)\n        if bool",
            "        if bool",
            "takes sets of strangers, or too small ones",
        ),
        (
            "if peer in chosen and reveal.survivors == self._settled_mark",
            "if peer in chosen",
            "uses shares that were revealed for another set",
        ),
        (
            "if message is not None and (fetch.author, message.signature) not in self._served:",
            "if message is not None:",
            "hands out the same again and again",
        ),
        ("if not missing and (others", "if (others", "contributes without everybody's shares"),
        (
            "if not missing and not self.acked:",
            "if not self.acked:",
            "says that it holds shares that it lacks",
        ),
        (
            "len(self._acks) >= limits.threshold",
            "len(self._acks) >= limits.threshold - 1",
            "contributes where too few hold the shares",
        ),
        ("if not self.committed or self.sent_masked:", "if not self.committed:", "sends two masked vectors"),
        (
            "if self._me in chosen and not self.sent_masked:",
            "if False:",
            "reveals for a vector of its own that it never sent",
        ),
        (
            'self.failure = "the others settled on survivors without us"\n            return',
            "pass",
            "reveals though it is left out",
        ),
        ("and result.digest != ours.digest:", "and False:", "another sum of the same vectors is no evidence"),
        ("if bundle.recipient != self._me:", "if False:", "opens bundles for somebody else"),
        ('self.failure = "a bundle did not open"', "pass", "waits for a bundle that does not open"),
        (
            "if max(votes.values(), default=0) + undecided < threshold:",
            "if False:",
            "waits for signatures that cannot come",
        ),
        (
            "if len(reveal.shares) != len(self._seat.members):",
            "if False:",
            "takes a reveal of too few shares",
        ),
    ],
    ("gossip/secure_sum", "gossip/masking"): [
        ("        self._shares.clear()\n", "", "shares are kept after the sum"),
        ("        self._recovery = None\n", "", "recovered secrets are kept after the sum"),
    ],
    ("gossip/round", "gossip/attacks gossip/attacks_on_membership"): [
        (
            "if self._sum is not None and (self._sum.acked or message.author not in",
            "if False and (self._sum.acked or message.author not in",
            "one member calls it away while the others go on by its ack",
        ),
        (
            "if now >= self._follow_at and not sum_.committed:",
            "if False:",
            "does not follow one that cannot ack",
        ),
    ],
    ("gossip/recovery", "gossip/recovery gossip/masked_sums gossip/secure_sum"): [
        ("return secret if right else None", "return secret", "secrets from shares that nobody verified"),
        (
            "tried=frozenset(shares), left=max(self.left - spent, 0)",
            "tried=frozenset(shares)",
            "a search is paid for once only",
        ),
        ("subset[0] not in tried", "True", "tries all subsets again with every new share"),
        ("doubted=doubted", "doubted=self.doubted", "looks for the same wrong shares for every secret"),
        ("chain(_neighbours(holders, threshold), others)", "others", "tries no neighbours in large groups"),
    ],
    ("gossip/secure_sum", "gossip/secure_sum"): [
        (
            "if not self.acked or len(self._elsewhere) > self.roster.thresholds.colluders:",
            "if True:",
            "begins again, for one that shows another roster, while others go on by its ack",
        ),
        (
            "if not self.acked or len(self._elsewhere) > self.roster.thresholds.colluders:",
            "if not self.acked:",
            "stays though others than colluders are in another roster",
        ),
        (
            "len(self._contributors) > limits.colluders",
            "len(self._contributors) >= limits.colluders",
            "contributes because colluders did",
        ),
        ("or self._computing:", "or False:", "puts secrets together twice at a time"),
        (" and len(reveals) > self._reveals_tried:", ":", "searches the same shares again and again"),
    ],
    ("gossip/secure_sum", "gossip/attacks gossip/attacks_on_membership"): [
        (
            "if not missing and (others_went_on or (over",
            "if not missing and ((over",
            "waits for an ack that is withheld from it while the others contribute",
        ),
        (
            "len(reveals) + to_come < self.roster.thresholds.threshold",
            "False",
            "waits for shares that cannot come",
        ),
    ],
    ("gossip/seat", "gossip/secure_sum gossip/attacks_on_sums"): [
        (
            "elif known.signed_bytes() != message.signed_bytes():",
            "elif False:",
            "two different values of one author are no evidence",
        ),
        (
            "        if known is None:\n            slots[message.author] = message",
            "        slots[message.author] = message\n        if known is None:\n            pass",
            "the last value counts instead of the first",
        ),
        (
            "if len(entries) < self.roster.thresholds.minimum_survivors:",
            "if False:",
            "sets that are too small",
        ),
        ("self.number[author] not in numbers or", "", "sets that their author is not in"),
        (" or max(numbers) >= len(self.members):", ":", "sets with members that there are none"),
    ],
    ("gossip/broadcast", "gossip/secure_sum gossip/round gossip/round_machine gossip/floods"): [
        (
            "return self._seat.me in chosen and (not left_out or now >= self._masked_until)",
            "return self._seat.me in chosen",
            "the quickest to sign chooses the survivors",
        ),
        (
            "return self._seat.me in chosen and (not left_out or now >= self._masked_until)",
            "return not left_out or now >= self._masked_until",
            "signs a set that it is not in",
        ),
        (
            "all(self._holds(*entry) for entry in self._seat.marks(choice[0]).items())",
            "all(peer in self._vectors for peer in self._seat.marks(choice[0]))",
            "signs for vectors that it does not hold",
        ),
        (
            "if len(message.data) != self._seat.chunks.dim * self._seat.ring.bytes:",
            "if False:",
            "takes vectors of any length",
        ),
        ("        if len(held) == 2:", "        if False:", "two masked vectors are no evidence"),
        (
            "len(held) < seat.roster.thresholds.minimum_survivors:",
            "len(held) < 1:",
            "signs sets that are too small",
        ),
    ],
    ("gossip/broadcast", "gossip/floods"): [
        (" and len(held) < 2:", ":", "keeps as many vectors of one member as it sends"),
    ],
    ("gossip/scatter", "gossip/attacks_on_sums"): [
        (
            "self._held[place].digest != pledge.digests[place[1]]:",
            "False:",
            "adds up a chunk that is not as pledged",
        ),
        (
            "if len(masked.data) != chunks.length(masked.chunk) * self._seat.ring.bytes:",
            "if False:",
            "takes chunks of any length",
        ),
        (
            "            if trial.verified:\n",
            "            if trial.choice:\n",
            "signs a sum that it has not checked",
        ),
        (
            "for peer in seat.members if self._has_all_of(peer)]",
            "for peer in seat.members if peer in self._pledges]",
            "says that it holds what it lacks",
        ),
        (
            "spoilers = current.blamed if now >= current.until else current.culprits",
            "spoilers = set[PeerId]()",
            "makes the same plan again",
        ),
        (
            "if len(pledge.digests) != self._seat.chunks.count:",
            "if False:",
            "takes pledges of another number of chunks",
        ),
        (
            "        self._seat.check_entries(held.author, held.entries)\n",
            "",
            "believes that strangers' vectors are held",
        ),
    ],
    ("gossip/scatter", "gossip/floods"): [
        (" or not self._is_wanted(*place):", ":", "keeps chunks that it never asked for"),
        ("_EARLY_PLANS: Final = 1", "_EARLY_PLANS: Final = 1 << 20", "keeps parts of any number of plans"),
        (
            "if isinstance(message, Check) or len(kept) <= self._most:",
            "if True:",
            "keeps any number of parts of one plan",
        ),
        (
            "if isinstance(message, Part) and len(message.data) > self._longest:",
            "if False:",
            "keeps parts of any length",
        ),
    ],
    ("gossip/scatter", "gossip/attacks gossip/attacks_on_membership"): [
        ("return len(differently) <= most and all(", "return True or all(", "follows any plan"),
        ("if seat.me not in chosen or not known:", "if not known:", "follows a plan that it is not in"),
        ("if seat.me not in chosen or not known:", "if seat.me not in chosen:", "adds up unknown vectors"),
        (
            "        chosen = [peer for peer in chosen if self._lack(peer, chosen) <= most]\n",
            "",
            "plans with a vector that nearly everybody lacks",
        ),
        ("        if not plan.owners or not set", "        if not set", "a plan that nobody adds up"),
        (
            " or not set(plan.owners) <= {number for number, _ in plan.entries}:",
            ":",
            "a plan that a stranger adds up",
        ),
        (
            "if now >= self._masked_until or not self._awaited(held):",
            "if not self._awaited(held):",
            "waits for a silent member for ever",
        ),
        (
            "if self._awaited(self._helds) and now < self._wait_for_helds(now):",
            "if self._awaited(self._helds):",
            "makes no plan while one says nothing",
        ),
    ],
    ("gossip/scatter", "gossip/attacks gossip/attacks_on_membership gossip/attack_sweeps"): [
        (
            "current is None or set(entries) < set(current.entries)",
            "current is None or set(entries) != set(current.entries)",
            "plans that grow again",
        ),
    ],
    ("gossip/scatter", "gossip/round_faults"): [
        (
            "            if trial.checked and not left:\n                return None\n",
            "",
            "signs an earlier sum though others may sign the later",
        ),
    ],
    (
        "gossip/scatter",
        "gossip/round_faults gossip/attacks gossip/attacks_on_membership gossip/attack_sweeps",
    ): [
        (
            "        if not self._signed and self._seat.me in self._helds:",
            "        if self._seat.me in self._helds:",
            "follows another plan after it has signed",
        ),
    ],
    ("gossip/scatter", "gossip/attack_sweeps"): [
        (" and seat.me in chosen and", " and", "makes a plan that it is not in"),
    ],
    ("gossip/trial", "gossip/attacks_on_sums"): [
        (" or part.author != self._owner(part.chunk):", ":", "takes a part from whoever sends it"),
        (
            "if len(part.data) != chunks.length(part.chunk) * self._seat.ring.bytes:",
            "if False:",
            "takes parts of any length",
        ),
        (
            "        if known.digest != part.digest:",
            "        if False:",
            "two parts of one chunk are no evidence",
        ),
        (
            "if check.author not in self.members or len(check.parts)",
            "if len(check.parts)",
            "takes checks of strangers to the plan",
        ),
        ("        if len(check.words) != words:", "        if False:", "takes checks of any length"),
        (
            "return np.array_equal(np.add.reduce(each, dtype=words.dtype), words)",
            "return True",
            "skips the linear check",
        ),
        (
            "pack((self.mark, self._part_digests))",
            "pack((self.mark,))",
            "the challenge is not bound to the parts",
        ),
        (
            "pack((self.mark, self._part_digests))",
            "pack((self._part_digests,))",
            "the challenge is not bound to the vectors",
        ),
        ("        if differing:\n            return\n", "", "sums of which others have other parts"),
        (
            "        if not suspects:\n            self._blame(owner)\n            return\n",
            "        if not suspects:\n            return\n",
            "a wrong sum is nobody's fault",
        ),
        (
            "over = now >= self._patient_until and",
            "over =",
            "asks an owner for all that it added, at once",
        ),
        ("self.until = max(self.until, now + self._seat.phase_seconds)", "pass", "gives disputes no time"),
        (
            "            self._fetch_missing_checks(now)\n",
            "",
            "waits for a check that never came",
        ),
        (
            'self._seat.accuse(of, "a check of another vector", self._checks[of], self._pledges[of])',
            "pass",
            "wrong words are nobody's fault",
        ),
        (
            "if set(self._checks) != set(self.members):",
            "if len(self._checks) < len(self.members) // 2:",
            "verifies without everybody's check",
        ),
        ("if over or of in self._liars:", "if True:", "every wrong word costs a vector"),
        (
            "        if differs or self._doubts:",
            "        if False:",
            "one member's two checks divide the others",
        ),
    ],
    ("gossip/forming", "gossip/round gossip/round_machine gossip/attacks gossip/attacks_on_membership"): [
        (
            "unfair = any(same_sum(self._readies[peer], ours) for peer in ready)",
            "unfair = False",
            "a convener chooses the members",
        ),
        ("if ours not in proposal.readies or len", "if len", "a roster with another key in our place"),
        (" or len(proposal.readies) < minimum:", ":", "a roster that is too small"),
        (
            "not all(map(self._terms.suite.accepts_key, (ready.mask_key, ready.bundle_key))):",
            "False:",
            "one-time keys of small order",
        ),
        ("if ready.federation != self._terms.federation:", "if False:", "readies of another federation"),
        ("return ready.epoch_roster == self._terms.epoch_roster", "return True", "readies of another epoch"),
        (
            "not (self.same_state and one.state_digest != other.state_digest)",
            "True",
            "sums over members with other models",
        ),
    ],
    ("gossip/forming", "gossip/round gossip/round_machine"): [
        ("        if len(messages) < 2:", "        if True:", "keeps all that comes early"),
    ],
    ("gossip/round", "gossip/round gossip/round_machine gossip/attacks gossip/attacks_on_membership"): [
        (
            " or (message.author != peer and not message.RELAYED):",
            ":",
            "what somebody says in another's name",
        ),
        (
            "            if self._committed:\n                return\n            if self._sum",
            "            if self._sum",
            "begins again after it has contributed",
        ),
        (
            "if sum_.failure is not None and sum_.committed:",
            "if False:",
            "tries again after it has contributed",
        ),
        (
            "elif isinstance(message, Bundle | Ack) and not sum_.committed:",
            "elif isinstance(message, Bundle | Ack):",
            "gives up what it contributed to for another's roster",
        ),
        (
            "self._secrets = secrets = Secrets.fresh(self._terms.suite, self._random)",
            "self.kept = self._secrets = secrets = vars(self).get('kept') or "
            "Secrets.fresh(self._terms.suite, self._random)",
            "the same secrets in every attempt",
        ),
        ("            elif now >= self._ends_at:", "            elif False:", "a round without an end"),
        (
            "        if message.roster == sum_.roster.digest:",
            "        if True:",
            "messages of another roster",
        ),
    ],
    ("gossip/vector_messages", "gossip/messages"): [
        (
            "if digest(labels.MASKED_DIGEST, payload) != claimed:",
            "if False:",
            "a chunk that is not the one that was signed",
        ),
        (
            "if digest(labels.PART_DIGEST, payload) != claimed:",
            "if False:",
            "a part that is not the one that was signed",
        ),
        ("one >= other for one", "one > other for one", "a member twice in a set"),
        ("one >= other for one", "False for one", "one set of members in many spellings"),
        ("        _require_ascending(owners)\n", "", "owners twice, or in many spellings"),
        ("item.number(MAX_MEMBERS)", "item.number()", "members beyond the largest group"),
    ],
    ("gossip/wire", "gossip/messages"): [
        (
            "len(signature) == _SIGNATURE_BYTES and verify(author, kind.LABEL, body, signature)",
            "len(signature) == _SIGNATURE_BYTES",
            "signatures are not verified",
        ),
    ],
    ("gossip/tickets", "gossip/attacks_on_credentials"): [
        (
            "if names[-1] in manifest.members:",
            "if any(name in manifest.members for name in names):",
            "a place has keys before the one that was admitted",
        ),
        ("if names[-1] in enough:", "if enough:", "the same, of a place by ticket"),
    ],
    ("gossip/exclusions", "gossip/attacks_on_credentials"): [
        (
            "room = rivals < _RIVALS and",
            "room = max(rivals, len(before)) < _RIVALS and",
            "of three that left their places to one, nodes know different two",
        ),
    ],
    ("gossip/attendance", "gossip/round_machine"): [
        (
            "if (phase, peer) not in self._timed:",
            "if True:",
            "one member's time counts as often as it says it",
        ),
    ],
    ("gossip/epoch_messages", "gossip/epoch_messages"): [
        (
            "if authors[presence.author] > _MOST_OF_AN_AUTHOR:",
            "if False:",
            "a message full of presences of one author",
        ),
    ],
}
