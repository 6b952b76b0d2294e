"""Who says what: the turns of a chat, and the tokens that its template writes.

Groups of tokens by role, beside the groups by position (`token_map`). They are known where `encode` has put messages
into a chat template itself. A complete text or a ready encoding does not say who says what, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import SpecError
from .ranges import NOWHERE, Ranges

ROLE_GROUPS = {"system": "system_message", "user": "user", "assistant": "assistant"}
"""The group of each role; `system` is the group of what stands before the first image or video. Other roles are groups
too."""
MARKERS = "markers"
TURN = "turn."


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of a chat.

    Attributes:
        role: as the message has it.
        words: the tokens that spell its text.
        images: the numbers of its images.
        videos: the numbers of its videos.
    """

    role: str
    words: Ranges
    images: tuple[int, ...] = ()
    videos: tuple[int, ...] = ()

    @property
    def group(self) -> str:
        """The name of the group of everything that this role says."""
        return ROLE_GROUPS.get(self.role, self.role)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Which tokens of a row are whose words; all others of its text are the template's.

    Attributes:
        turns: the messages in the order in which they were given.
        preset: the system message that the template writes where none is given.
        markers: the template's tokens: role markers, the marks around an image, thinking tags. Where it is not known
            who says what, the special tokens; None where these are not known either.
        unknown: why it is not known who says what; empty where it is.
    """

    turns: tuple[Turn, ...] = ()
    preset: Ranges = NOWHERE
    markers: Ranges | None = None
    unknown: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the groups that are known."""
        markers = () if self.markers is None else (MARKERS,)
        if self.unknown:
            return markers
        roles = dict.fromkeys((*ROLE_GROUPS.values(), *(turn.group for turn in self.turns)))
        return (*markers, *roles, *(f"{TURN}{number}" for number in range(len(self.turns))))

    def group(self, name: str, stretch: Callable[[str, int], Ranges]) -> Ranges:
        """Positions of a group.

        Args:
            name: `markers`, a role's group or a turn.
            stretch: `"image"` or `"video"` and its number to all positions that belong to it.

        Raises:
            SpecError: it is not known who says what, or there is no such turn.
        """
        if name == MARKERS and self.markers is not None:
            return self.markers
        if self.unknown:
            raise SpecError(f"the group {name!r} of this prompt is not known: {self.unknown}")
        if name.startswith(TURN):
            number = name.removeprefix(TURN)
            if not number.isdecimal() or int(number) >= len(self.turns):
                raise SpecError(f"no group {name!r}: the chat has {len(self.turns)} message(s), counted from turn.0")
            chosen = [self.turns[int(number)]]
        else:
            chosen = [turn for turn in self.turns if turn.group == name]
        preset = self.preset if name == ROLE_GROUPS["system"] else NOWHERE
        shown = (
            stretch(kind, number)
            for turn in chosen
            for kind, numbers in (("image", turn.images), ("video", turn.videos))
            for number in numbers
        )
        return Ranges.union((preset, *shown, *(turn.words for turn in chosen)))

    def mapped(self, change: Callable[[Ranges], Ranges]) -> Conversation:
        """The same with all positions changed."""
        return Conversation(
            turns=tuple(replace(turn, words=change(turn.words)) for turn in self.turns),
            preset=change(self.preset),
            markers=None if self.markers is None else change(self.markers),
            unknown=self.unknown,
        )


def is_role_group(name: str) -> bool:
    """Whether a name is that of a group by role, in whatever prompt."""
    return name in (MARKERS, *ROLE_GROUPS.values()) or name.startswith(TURN)


READY = "ready inputs do not say who says what; write nv.encode(model, messages, images)"
COMPLETE = "a complete text does not say who says what; write nv.encode(model, messages, images)"
"""Why it is not known who says what."""
