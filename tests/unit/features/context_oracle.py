"""Peaks, top contexts and legal contexts by plain loops over a dense matrix."""

import numpy as np

from deepseemoe.features.halves import is_explaining


class Oracle:
    """What a text and a configuration allow."""

    def __init__(self, text, config):
        self.text, self.config = text, config
        self.dense = text.matrix.toarray()
        self.explains = is_explaining(text.doc_ids)
        self.width = config.context_before + 1 + config.context_after

    def bounds(self, place):
        """Return the first place of a context, and the one behind its last."""
        segments = self.text.segments
        segment = np.searchsorted(segments, place, side="right") - 1
        first = max(place - self.config.context_before, segments[segment])
        return first, min(place + self.config.context_after + 1, segments[segment + 1])

    def peaks(self, feature, half):
        """Return the peaks of a feature in a half: {place: activation}."""
        column, found = self.dense[:, feature], {}
        for start, stop in zip(self.text.segments, self.text.segments[1:], strict=False):
            if self.explains[start] != (half == "explain"):
                continue
            maxima = []
            for first in range(start, stop, self.width):
                values = column[first : min(first + self.width, stop)]
                if values.any():
                    maxima.append(first + int(values.argmax()))
            for n, place in enumerate(maxima):
                before = maxima[n - 1] if n else -self.width
                after = maxima[n + 1] if n + 1 < len(maxima) else place + self.width
                hidden = place - before < self.width and column[before] >= column[place]
                hidden |= after - place < self.width and column[after] > column[place]
                if not hidden:
                    found[place] = column[place]
        return found

    def top(self, feature, half):
        """Return the places of the top contexts, by falling peak."""
        peaks, documents = self.peaks(feature, half), {}
        for place in sorted(peaks, key=lambda place: (-peaks[place], place)):
            documents.setdefault(self.text.doc_ids[place], []).append(place)
        keys = [
            (repeat, -peaks[place], place)
            for places in documents.values()
            for repeat, place in enumerate(places)
        ]
        kept = [place for _, _, place in sorted(keys)[: self.config.n_top]]
        return sorted(kept, key=lambda place: (-peaks[place], place))

    def is_off(self, feature, place):
        """Return whether a feature is off in the whole context around a valid place."""
        first, stop = self.bounds(place)
        return bool(self.text.is_valid[place]) and not self.dense[first:stop, feature].any()

    def own_tokens(self, feature, half):
        """Return the tokens on which a feature fires in a half."""
        mine = (self.dense[:, feature] > 0) & (self.explains == (half == "explain"))
        return set(self.text.token_ids[mine].tolist())

    def n_near(self, feature, half):
        """Return how many near misses there are."""
        tokens = self.own_tokens(feature, half)
        return sum(
            self.is_off(feature, place)
            for place in np.flatnonzero(self.explains == (half == "explain"))
            if self.text.token_ids[place] in tokens
        )
