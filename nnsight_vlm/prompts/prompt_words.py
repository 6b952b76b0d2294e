"""What a prompt says about its words: where they are, and which tokens spell them."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from ..arguments import flag, spelled, whole_number
from ..errors import SpecError
from ..families import Model
from .prompt_text import PromptText, Word, prompt_text
from .token_map import TokenMap
from .token_text import known_tokenizer
from .where import Where, as_tuples, shown


class PromptWords:
    """A prompt's text and words. All of it is for prompts of one row.

    Attributes:
        rows, model: see `Prompt`.
    """

    rows: tuple[TokenMap, ...]
    model: Model

    @property
    def text(self) -> str:
        """The prompt's text, every image and every frame of a video a line break (one row only)."""
        return self._written("text").text

    def find(
        self,
        words: str,
        *,
        within: Where = "all",
        occurrence: int | None = None,
        whole_words: bool = True,
        ignore_case: bool = False,
    ) -> tuple[int, ...]:
        """Positions of the tokens that spell `words`, wherever they occur (one row only).

        Args:
            words: text as the prompt has it, in any script. A special token is found by its whole text.
            within: the group or positions in which they must be.
            occurrence: take only this occurrence, counted from 0.
            whole_words: not the middle of a longer word, see `find_all`; False finds parts of words too.
            ignore_case: whether capitals match small letters.

        Raises:
            SpecError: the words are not in the prompt, or not that often.

        >>> import nnsight_vlm as nv
        >>> prompt = nv.encode(nv.load("shapes"), "is the red circle left of the red ring ?", nv.shapes.scene(3).image)
        >>> prompt.find("red"), prompt.find("red", occurrence=1)
        ((117, 122), (122,))
        """
        matches = self.find_all(words, within=within, whole_words=whole_words, ignore_case=ignore_case)
        if not matches:
            why = self._written("find(...)").why_not_found(words, self._positions_within(within))
            raise SpecError(f"{words!r} is not in the prompt ({shown(as_tuples(within))}), {why}")
        if occurrence is not None and not 0 <= whole_number("occurrence", occurrence) < len(matches):
            raise SpecError(f"{words!r} occurs {len(matches)} time(s); occurrence={occurrence} counts from 0")
        chosen = matches if occurrence is None else [matches[occurrence]]
        return tuple(sorted({position for match in chosen for position in match.positions}))

    def find_all(
        self, words: str, *, within: Where = "all", whole_words: bool = True, ignore_case: bool = False
    ) -> list[Word]:
        """Every place that has these words, in order, with its tokens; an empty list where there is none.

        A word is a stretch of letters and digits. Where a script has no spaces between words (Han, Kana, Thai, Lao,
        Khmer, Burmese), words may begin and end at any character. A Korean noun is found before its particles: 고양이
        in 고양이는. Parts of a compound are found with `whole_words=False`: `Tür` in `Haustür`.

        Args:
            words, within, whole_words, ignore_case: see `find`.

        Raises:
            SpecError: there is no such group, or the words are no text.
        """
        written = self._written("find_all(...)")
        if not isinstance(words, str):
            raise SpecError(f'words must be text, and {spelled(words)} was given; write prompt.find("red square")')
        whole_words, ignore_case = flag("whole_words", whole_words), flag("ignore_case", ignore_case)
        return written.find(words, self._positions_within(within), whole_words=whole_words, ignore_case=ignore_case)

    def words(self, within: Where = "all") -> list[Word]:
        """The words whose tokens are all in a group, in order, without punctuation and special tokens (one row only).

        In scripts without spaces a word is the least number of characters that are whole tokens, so it follows from the
        tokenizer's vocabulary: nothing here knows a dictionary.

        Raises:
            SpecError: there is no such group.

        >>> import nnsight_vlm as nv
        >>> prompt = nv.encode(nv.load("shapes"), "what is red ?", nv.shapes.scene(3).image)
        >>> [(word.text, word.positions) for word in prompt.words("query")]
        [('user', (114,)), ('what', (115,)), ('is', (116,)), ('red', (117,)), ('assistant', (119,))]
        """
        return self._written("words(...)").words(self._positions_within(within))

    def _only_row(self, asked: str) -> TokenMap:
        """The token map of a prompt of one row; `asked` names what the user asked for."""
        if len(self.rows) > 1:
            raise SpecError(f"{asked} is for one row, and the prompt has {len(self.rows)}; write prompt.row(0).{asked}")
        return self.rows[0]

    def _written(self, asked: str) -> PromptText:
        """The prompt as text, which is made once for each tokenizer."""
        tokens, written = self._only_row(asked), _WRITTEN.get(self)
        if written is None or written.tokenizer is not known_tokenizer(self.model):
            written = _WRITTEN[self] = prompt_text(self.model, tokens)
        return written

    def _positions_within(self, within: Where) -> frozenset[int] | None:
        """The positions of a group; None for all, those outside the sequence included."""
        within, tokens = as_tuples(within), self.rows[0]
        return None if within == "all" else frozenset(tokens.ranges(within).positions(tokens.stop))


_WRITTEN = WeakKeyDictionary[PromptWords, PromptText]()
"""Prompts as text, as long as they are there; beside them, so that copies and pickles are without it."""
