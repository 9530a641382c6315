//! English that models have seen: openings in the public domain.

/// Texts of more tokens than are needed.
pub(super) const TEXTS: [&str; 8] = [
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a \
     wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this \
     truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful property of \
     some one or other of their daughters.",
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, and nothing \
     particular to interest me on shore, I thought I would sail about a little and see the watery part of the world. It \
     is a way I have of driving off the spleen and regulating the circulation.",
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or \
     twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, and what \
     is the use of a book, thought Alice, without pictures or conversations?",
    "When in the Course of human events, it becomes necessary for one people to dissolve the political bands which have \
     connected them with another, and to assume among the powers of the earth, the separate and equal station to which \
     the Laws of Nature and of Nature's God entitle them, a decent respect to the opinions of mankind requires that they \
     should declare the causes which impel them to the separation.",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was \
     the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness, it \
     was the spring of hope, it was the winter of despair.",
    "The energy that a computer takes depends on what it computes and on how fast. A processor that waits for its memory \
     takes less power than one that multiplies, but it takes it for longer; so the same work can cost more energy on a \
     machine whose power is lower. Measuring both the time and the power is the only way to know.",
    "To make bread, mix 500 grams of flour with 350 grams of water, 10 grams of salt and a little yeast. Knead the dough \
     for ten minutes, cover it, and let it rise until it has doubled. Shape a loaf, let it rise again for an hour, and \
     bake it at 230 degrees for about 35 minutes, until the crust is brown.",
    "def merge(left, right):\n    result = []\n    i = j = 0\n    while i < len(left) and j < len(right):\n        if \
     left[i] <= right[j]:\n            result.append(left[i])\n            i += 1\n        else:\n            \
     result.append(right[j])\n            j += 1\n    return result + left[i:] + right[j:]\n",
];
