"""Compiled loops over the stream of activations: peaks as they pass, and look-ups in contexts.

Every activation updates the few numbers of its feature, which lie side by side (`FEATURE`, 72
bytes): those of 65,536 features stay in the processor's cache. Nothing is remembered of a run but
these, so runs may end anywhere.

Axes: F features, H the halves of the documents, N top contexts, P places of a reservoir, R rows
(contexts) sorted by feature and place, W tokens of contexts.
"""

import numba
import numpy as np

COMPILED = {"cache": True, "nogil": True}

FEATURE = np.dtype(
    [
        ("salt", np.uint64),
        ("n_active", np.int64),
        ("total", np.float64),
        ("n_documents", np.int64),
        ("document", np.int64),  # of the last activation; -1 before the first
        ("open_place", np.int64),  # the highest of the bin that is being read; -1 before the first
        ("open_stop", np.int64),  # where that bin ends
        ("held_place", np.int64),  # the highest of the bin before; -1 where there is none
        ("highest", np.float32),
        ("open_value", np.float32),
        ("held_value", np.float32),
        ("joins", np.uint8),  # both lie in one segment
        ("held_stays", np.uint8),  # no neighbour before it was stronger
        ("open_half", np.uint8),
        ("held_half", np.uint8),
    ],
    align=True,
)

HALF = np.dtype(
    [
        ("n_peaks", np.int64),
        ("bar", np.uint64),  # highest priority in a full reservoir
        ("n_top", np.int32),
        ("least", np.float32),  # what a peak must exceed to be among the top; -inf: it may be any
    ],
    align=True,
)


@numba.njit(**COMPILED)
def mix(bits):
    """Return what `halves.mixed` returns, of one number."""
    bits = np.uint64(bits) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


PEAK = np.dtype(
    [("place", np.int64), ("feature", np.int32), ("value", np.float32), ("half", np.int64)],
    align=True,
)


@numba.njit(**COMPILED)
def find_peaks(
    place, offsets, first, features, values, segments, half_S, doc_ids, width, states, peaks
):
    """Add a run of activations to the sums of their features; return how many `peaks` it wrote."""
    token = np.searchsorted(offsets, first, side="right") - 1
    segment = np.searchsorted(segments, place + token, side="right") - 1
    n_peaks = 0
    for i in range(features.size):
        while offsets[token + 1] <= first + i:
            token += 1
        here = place + token
        while segments[segment + 1] <= here:
            segment += 1
        feature, value = np.int64(features[i]), values[i]
        state = states[feature]
        state.n_active += 1
        state.total += value
        state.highest = max(state.highest, value)
        if state.document != doc_ids[here]:
            state.document = doc_ids[here]
            state.n_documents += 1
        if here < state.open_stop:
            if value > state.open_value:
                state.open_place, state.open_value = here, value
            continue
        if state.open_place >= 0:
            n_peaks = shut(feature, states, width, peaks, n_peaks)
        start = segments[segment]
        state.joins = state.held_place >= start
        state.open_place, state.open_value, state.open_half = here, value, half_S[segment]
        stop = start + ((here - start) // width + 1) * width
        state.open_stop = min(stop, segments[segment + 1])
    return n_peaks


@numba.njit(**COMPILED)
def last_peaks(states, width, peaks):
    """Write the last peaks of every feature, behind which the text ends; return how many."""
    n_peaks = 0
    for feature in range(states.size):
        if states[feature].open_place >= 0:
            n_peaks = shut(feature, states, width, peaks, n_peaks)
            if states[feature].held_stays:
                n_peaks = write(feature, states, peaks, n_peaks)
    return n_peaks


@numba.njit(**COMPILED)
def shut(feature, states, width, peaks, n_peaks):
    """End a bin: of it and the one before, the weaker is no peak where they are close."""
    state = states[feature]
    stays = True
    if state.held_place >= 0:
        if state.joins and state.open_place - state.held_place < width:
            if state.held_value >= state.open_value:
                stays = False
            else:
                state.held_stays = False
        if state.held_stays:
            n_peaks = write(feature, states, peaks, n_peaks)
    state.held_place, state.held_value = state.open_place, state.open_value
    state.held_half, state.held_stays = state.open_half, stays
    return n_peaks


@numba.njit(**COMPILED)
def write(feature, states, peaks, n_peaks):
    """Write the peak that a feature holds; return how many are written."""
    peak, state = peaks[n_peaks], states[feature]
    peak.feature, peak.half = feature, state.held_half
    peak.place, peak.value = state.held_place, state.held_value
    return n_peaks + 1


@numba.njit(**COMPILED)
def add_top(peaks, halves, doc_ids, places, values, repeats):
    """Offer peaks, in text order, to the top contexts of their features and halves."""
    for i in range(peaks.size):
        f, h = np.int64(peaks[i].feature), peaks[i].half
        place, value = peaks[i].place, peaks[i].value
        if value > halves[f, h].least:
            put_among_top(f, h, place, value, halves, doc_ids, places, values, repeats)


@numba.njit(**COMPILED)
def add_sample(peaks, states, halves, places, values):
    """Offer peaks to the reservoirs of their features and halves, and count them."""
    size = places.shape[2]
    for i in range(peaks.size):
        f, h = np.int64(peaks[i].feature), peaks[i].half
        place, value, salt = peaks[i].place, peaks[i].value, states[f].salt
        found = halves[f, h]
        n = found.n_peaks
        found.n_peaks = n + 1
        if n < size:
            places[f, h, n], values[f, h, n] = place, value
            if n < size - 1:
                continue
            for root in range(size // 2 - 1, -1, -1):
                sift(f, h, root, places[f, h, root], values[f, h, root], salt, places, values)
        elif mix(salt ^ np.uint64(place)) < found.bar:
            sift(f, h, 0, place, value, salt, places, values)
        else:
            continue
        found.bar = mix(salt ^ np.uint64(places[f, h, 0]))


@numba.njit(**COMPILED)
def sift(f, h, root, place, value, salt, places, values):
    """Put an entry at `root` of a heap and let it sink; the highest priority is on top."""
    size, priority = places.shape[2], mix(salt ^ np.uint64(place))
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        above = mix(salt ^ np.uint64(places[f, h, child]))
        if child + 1 < size:
            other = mix(salt ^ np.uint64(places[f, h, child + 1]))
            if other > above:
                child, above = child + 1, other
        if above <= priority:
            break
        places[f, h, root], values[f, h, root] = places[f, h, child], values[f, h, child]
        root = child
    places[f, h, root], values[f, h, root] = place, value


@numba.njit(**COMPILED)
def put_among_top(f, h, place, value, halves, doc_ids, places, values, repeats):
    """Put a peak among the top where it belongs there, one a document before any second.

    `repeats` counts the stronger peaks of the same document. What is once pushed out never comes
    back: each peak that is added makes the N best keys (repeat, -value) better or leaves them.
    """
    found, size = halves[f, h], places.shape[2]
    n, document = np.int64(found.n_top), doc_ids[place]
    repeat = 0
    for i in range(n):
        if values[f, h, i] >= value and doc_ids[places[f, h, i]] == document:
            repeat += 1
    if n == size:
        worst = worst_of(f, h, n, places, values, repeats)
        least = repeats[f, h, worst]
        if least < repeat or (least == repeat and values[f, h, worst] >= value):
            return
    for i in range(n):
        if values[f, h, i] < value and doc_ids[places[f, h, i]] == document:
            repeats[f, h, i] += 1
    slot = n
    if n == size:
        slot = worst_of(f, h, n, places, values, repeats)
    else:
        n += 1
        found.n_top = n
    places[f, h, slot], values[f, h, slot], repeats[f, h, slot] = place, value, repeat
    if n == size:
        worst = worst_of(f, h, n, places, values, repeats)
        # Any peak may enter while a document stands there twice.
        is_bar = repeats[f, h, worst] == 0
        found.least = values[f, h, worst] if is_bar else np.float32(-np.inf)


@numba.njit(**COMPILED)
def worst_of(f, h, n, places, values, repeats):
    """Return which of the top goes first: the most repeated, the weakest, the last."""
    worst = 0
    for i in range(1, n):
        if repeats[f, h, i] != repeats[f, h, worst]:
            if repeats[f, h, i] > repeats[f, h, worst]:
                worst = i
        elif values[f, h, i] != values[f, h, worst]:
            if values[f, h, i] < values[f, h, worst]:
                worst = i
        elif places[f, h, i] > places[f, h, worst]:
            worst = i
    return worst


CURSOR = np.dtype([("row", np.int64), ("wakes", np.int64)], align=True)
"""The first row of a feature that does not lie behind us, and the place where it begins."""


@numba.njit(**COMPILED)
def look_up(
    place,
    offsets,
    first,
    features,
    values,
    starts,
    cursors,
    first_R,
    length_R,
    target_R,
    is_on_R,
    z_W,
):
    """Mark the rows in which their feature fires, and write activations of those with a target.

    Row r of feature f, one of `starts[f]:starts[f + 1]`, has `length_R[r]` places from `first_R[r]`
    on; where rows begin and where they end never falls within a feature. Its activations go to
    `z_W` from `target_R[r]` on, or nowhere where that is -1.
    """
    token = np.searchsorted(offsets, first, side="right") - 1
    for i in range(features.size):
        while offsets[token + 1] <= first + i:
            token += 1
        here = place + token
        feature = np.int64(features[i])
        cursor = cursors[feature]
        if here < cursor.wakes:
            continue
        row, stop = cursor.row, starts[feature + 1]
        while row < stop and first_R[row] + length_R[row] <= here:
            row += 1
        cursor.row = row
        cursor.wakes = first_R[row] if row < stop else np.int64(0x7FFFFFFFFFFFFFFF)
        while row < stop and first_R[row] <= here:
            is_on_R[row] = True
            if target_R[row] >= 0:
                z_W[target_R[row] + here - first_R[row]] = values[i]
            row += 1


@numba.njit(**COMPILED)
def nearest(cosine_BF, rows, n, found_BN):
    """Write the n columns with the highest cosine of each row, but itself, highest first."""
    values = np.empty(n, np.float32)
    for b in range(cosine_BF.shape[0]):
        count = 0
        for f in range(cosine_BF.shape[1]):
            value = cosine_BF[b, f]
            if f == rows[b] or (count == n and value <= values[n - 1]):
                continue
            i = min(count, n - 1)
            while i > 0 and values[i - 1] < value:
                values[i] = values[i - 1]
                found_BN[b, i] = found_BN[b, i - 1]
                i -= 1
            values[i], found_BN[b, i] = value, f
            count = min(count + 1, n)
