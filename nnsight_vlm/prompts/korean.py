"""Korean particles: what may stand behind a noun without a space.

Korean writes particles and the copula at the end of the noun that they belong to: 고양이 (cat), 고양이는 (the cat, as
the topic), 고양이입니다 (it is a cat). Which form a particle has follows from the last sound before it, and this tells
many other words apart: 나무 (tree) is not 나 (I) with a particle, and 사과 (apple) is not 사 with 과, which follows
consonants only. What only a dictionary could tell stays open: 포도 is grapes, or a cloth (포) too (도).
"""

from __future__ import annotations

import unicodedata

_AFTER_ANY = """
의 에 에서 에게 에게서 께 께서 한테 한테서 도 만 부터 까지 처럼 만큼 보다 마다 조차 마저 밖에 뿐 하고 대로 같이 들
입니다 입니까 이다 이고 이며 이지만 인 인데 인가 인가요 이었다 이었습니다 이라고 이라는 이라면
"""
_AFTER_CONSONANT = "은 이 을 과 으로 이랑 이나 이란 이라도 이든 이든지 이야 이에요 이네요 이니까 이라서 아"
_AFTER_VOWEL = """
는 가 를 와 랑 라도 라고 라는 라면 라서 든지 예요 네요 니까 지만 였다 였습니다
"""
_AFTER_VOWEL_OF_A_LONGER_NOUN = "다 고 며 나 란 야 든"
"""Behind one syllable they are other words as a rule: 바다 (sea), 나라 (country), 차고 (garage)."""
_MOST = 4
"""Most particles behind one noun: 아이 들 에게 만 은."""

_FIRST, _LAST, _FINALS, _RIEUL = ord("가"), ord("힣"), 28, 8


def are_particles(noun: str, rest: str) -> bool:
    """Whether what follows a noun in the same word may be particles.

    >>> are_particles("고양이", "에게만은"), are_particles("나", "무"), are_particles("사", "과")
    (True, False, False)
    """
    noun, rest = (unicodedata.normalize("NFC", part) for part in (noun, rest))
    return _follow(noun, rest, _MOST)


def _follow(before: str, rest: str, most: int) -> bool:
    if not rest:
        return True
    return most > 0 and any(
        rest.startswith(particle) and _follow(before + particle, rest[len(particle) :], most - 1)
        for particle in _particles_after(before)
    )


def _particles_after(before: str) -> list[str]:
    """The particles that the last sound of what they follow allows; 로 follows vowels and ㄹ."""
    syllable = before[-1:]
    if not (syllable and _FIRST <= ord(syllable) <= _LAST):
        return []
    final = (ord(syllable) - _FIRST) % _FINALS
    longer = _AFTER_VOWEL_OF_A_LONGER_NOUN if len(before) > 1 else ""
    own = f"{_AFTER_VOWEL} {longer}" if final == 0 else _AFTER_CONSONANT
    particles = f"{_AFTER_ANY} {own}".split()
    if final in (0, _RIEUL):
        return [*(particle for particle in particles if particle != "으로"), "로"]
    return particles
