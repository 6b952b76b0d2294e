"""Draws what is changed and read: at positions, layers and heads that the prompts and the model have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from .edits import Edge, Look, Peek, State, resolved, split
from .places import Places
from .usable import require_readable, require_usable
from .worlds import Question, Unusable, World, like


@dataclass(frozen=True)
class Drawer:
    """Draws what is changed and read in some questions at once."""

    random: Random
    world: World
    questions: tuple[Question, ...]
    mode: str

    @property
    def batched(self) -> bool:
        return len(self.questions) > 1

    @property
    def decoding(self) -> bool:
        return self.mode in ("generate", "generations")

    # names --------------------------------------------------------------------------------------------------

    def stage(self, questions: Sequence[Question]) -> str:
        there = [
            name for name in self.world.places(questions[0]) if all(name in self.world.places(q) for q in questions)
        ]
        others = [name for name in there if name != "decoder"]
        return self.random.choice(others) if others and self.random.random() < 0.6 else "decoder"

    def where(self, questions: Sequence[Question], stage: str, side: str = "any", within: Any = None) -> Any:
        """A group, a position, or several of them; `side` is `any`, `inside` or `outside` the sequence."""
        all_places = [self.world.places(asked)[stage] for asked in questions]
        names = [name for name in all_places[0].groups if all(self._fits(p, name, side, within) for p in all_places)]
        if self.decoding and stage == "decoder" and side != "outside" and within is None:
            names += ["generated"] * 2
        positions = [p for p in self._positions(all_places[0], side) if within is None or p in within[0]]
        numbered = len(questions) == 1 and positions and not (self.batched and stage not in ("decoder", "encoder"))
        kinds = ["name"] * 4 * bool(names) + ["some", "one", "mixed"] * bool(numbered)
        if not kinds:
            raise Unusable
        kind = self.random.choice(kinds)
        if kind == "name":
            return self.random.choice(names)
        if kind == "one":
            return self.random.choice(positions)
        some = tuple(sorted(self.random.sample(positions, self.random.randint(1, len(positions)))))
        return (self.random.choice(names), *some[:2]) if kind == "mixed" and names else some

    @staticmethod
    def _positions(places: Places, side: str) -> list[int]:
        low = 0 if side == "inside" else -places.outside
        return list(range(low, 0 if side == "outside" else places.length))

    def _fits(self, places: Places, name: str, side: str, within: Any) -> bool:
        found = places.groups.get(name, ())
        allowed = self._positions(places, side)
        return bool(found) and set(found) <= set(allowed) and (within is None or set(found) <= set(within[0]))

    def layers(self, stage: str, having: Sequence[int], spread: bool = False) -> Any:
        """A choice of layers that holds one of `having`."""
        count, random = self.world.count(stage), self.random
        if not having:
            raise Unusable
        every = "attention" if self.world.hybrid(stage) and list(having) != list(range(count)) else "all"
        kind = random.choice(["every", "one", "some", "window", "depth"])
        if kind == "every" or spread:
            return every
        if kind == "one":
            return random.choice(having)
        if kind == "some":
            return tuple(sorted(random.sample(list(having), random.randint(1, len(having)))))
        low = random.choice(having)
        if kind == "window":
            return ("window", random.randint(0, low), random.randint(low + 1, count))
        return ("depth", random.choice([0.0, low / count]), random.choice([(low + 1) / count, 1.0]))

    # edits --------------------------------------------------------------------------------------------------

    def edits(self, questions: tuple[Question, ...]) -> tuple[Any, ...]:
        """One to three edits, which ask for something in each of the questions."""
        return self.usable(lambda: self._edits(questions))

    def usable(self, draw: Callable[[], Any]) -> Any:
        """What is drawn again until it asks for something: the questions, whose clean runs are known, stay."""
        for _ in range(20):
            try:
                return draw()
            except Unusable:
                continue
        raise Unusable

    def _edits(self, questions: tuple[Question, ...]) -> tuple[Any, ...]:
        many = self.random.choice([1, 1, 1, 2, 2, 3])
        draws = [self.edge if self.random.random() < 0.55 else self.state for _ in range(many)]
        found = tuple(draw(questions) for draw in draws)
        for asked in questions:
            require_usable(self.world, asked, found, self.decoding)
        return found

    def edge(self, questions: Sequence[Question]) -> Edge:
        stage, random = self.stage(questions), self.random
        source = self.where(questions, stage)
        target = self.where(questions, stage, "inside", self._readers(questions, stage, source))
        kinds = {kind for asked in questions for kind in self._kinds(asked, stage, source)}
        having = [self.world.having(stage, kind) for kind in sorted(kinds)]
        both = [layer for layer in having[0] if all(layer in some for some in having)] if having else []
        allow = random.random() < 0.2
        pairs = not allow and random.random() < 0.15
        layers = self.layers(stage, both, spread=pairs or len(kinds) > 1)
        heads: Any = None
        if pairs:
            heads = tuple(sorted({(random.choice(both), random.randrange(self._heads(stage))) for _ in range(3)}))
        elif random.random() < 0.3:
            heads = tuple(sorted(random.sample(range(self._heads(stage)), random.randint(1, self._heads(stage)))))
        return Edge(source=source, target=target, layers=layers, heads=heads, stage=stage, allow=allow)

    def _kinds(self, asked: Question, stage: str, source: Any) -> set[str]:
        places = self.world.places(asked)[stage]
        grows = {"attention"} if stage == "decoder" and self._open(source) else set()
        return {*split(places, resolved(source, places)), *grows} or {"attention"}

    def _readers(self, questions: Sequence[Question], stage: str, source: Any) -> Any:
        """Where only some tokens read what is outside: these, for one question."""
        places = [self.world.places(asked)[stage] for asked in questions]
        outside = any(place < 0 for p in places for place in resolved(source, p))
        return [range(places[0].readers)] if outside and places[0].readers < places[0].length else None

    def _heads(self, stage: str) -> int:
        outcome = self.world.outcome(self.questions[0])
        return min(len(weights) for spot, weights in outcome.weights.items() if spot.stage == stage)

    def site(self, questions: Sequence[Question], stage: str) -> str:
        there = [self.world.sites(stage, asked) for asked in questions]
        names = [name for name in there[0] if all(name in some for some in there)]
        if stage == "encoder":
            names.append("features")
        return self.random.choice(names + ["features"] * 2 * ("features" in names))

    def state(self, questions: Sequence[Question]) -> State:
        stage, random = self.stage(questions), self.random
        site = self.site(questions, stage)
        where = self.state_where(questions, stage, site)
        layers: Any = "all" if site in ("embedding", "features") else self.layers(stage, self.world.having(stage, site))
        common = {"where": where, "site": site, "layers": layers, "stage": stage}
        how = random.choice(["zero", "zero", "mean", "resample", "patch", "patch", "tensor"])
        if len(questions) > 1 or self._open(where):
            how = random.choice(["zero", "mean"])
        if how == "mean" and where == "generated":
            how = "zero"
        if how == "resample" and self.mode == "batch" and not isinstance(where, str):
            how = "patch"  # the same positions, counted with the padding of this row, are others in the source
        if how in ("resample", "patch"):
            source = like(random, questions[0], self.world.name)
            under = ()
            if how == "patch" and random.random() < 0.25:
                drawer = dataclasses.replace(self, questions=(source,), mode="run")
                under = (drawer.edge((source,)),)
                require_usable(self.world, source, under, False)
            return State(**common, how=how, source=source, under=under)
        if how == "tensor":
            return State(**common, how=how, values=self._shape(questions[0], State(**common, how="zero")))
        return State(**common, how=how)

    def state_where(self, questions: Sequence[Question], stage: str, site: str) -> Any:
        if site == "features":
            image = [self.world.places(asked)[stage].groups.get("image", ()) for asked in questions]
            side = "outside" if image[0] and image[0][0] < 0 else "inside"
            return self.where(questions, stage, side, image)
        places = self.world.places(questions[0])[stage]
        limited = site in ("cross", "mlp") and places.readers < places.length
        return self.where(questions, stage, "inside", [range(places.readers)] if limited else None)

    def _open(self, where: Any) -> bool:
        names = [where] if isinstance(where, (str, int)) else where
        return self.decoding and any(name in ("generated", "all", "text") for name in names)

    def _shape(self, asked: Question, state: State) -> tuple[int, ...]:
        spots, clean = state.spots(self.world), self.world.outcome(asked).states
        if spots[0] not in clean:
            raise Unusable  # without a picture, Mllama skips layers
        width = clean[spots[0]].shape[-1]
        count = len(state.places(self.world, asked, state.where))
        layered = (len(spots),) if self.random.random() < 0.5 else ()
        return (self.random.randrange(1000), *layered, count, width)

    # reads --------------------------------------------------------------------------------------------------

    def read(self) -> Any:
        """A read of what is there."""
        return self.usable(self._readable)

    def _readable(self) -> Any:
        found = self._read()
        require_readable(self.world, self.questions, found)
        return found

    def _read(self) -> Any:
        stage, random = self.stage(self.questions), self.random
        if random.random() < 0.4:
            site = self.site(self.questions, stage)
            where = self.state_where(self.questions, stage, site)
            having = [] if site in ("embedding", "features") else self.world.having(stage, site)
            layers = self.layers(stage, having) if having else "all"
            return Peek(where=where, site=site, layers=layers, stage=stage)
        keys = self.where(self.questions, stage)
        if self.world.has_encoder and stage == "decoder" and "text" in (keys if isinstance(keys, tuple) else (keys,)):
            raise Unusable  # it holds what the decoder will say, too
        kinds = [kind for asked in self.questions for kind in self._kinds(asked, stage, keys)]
        if len(set(kinds)) > 1:
            raise Unusable
        queries = self.where(self.questions, stage, "inside", self._readers(self.questions, stage, keys))
        layers = self.layers(stage, self.world.having(stage, kinds[0]))
        heads = None
        if random.random() < 0.3:
            heads = tuple(sorted(random.sample(range(self._heads(stage)), random.randint(1, self._heads(stage)))))
        fewest = min(len(resolved(keys, self.world.places(asked)[stage])) for asked in self.questions)
        reduce = random.choice(["rows", "rows", "mean", "mass", "entropy", "top"])
        top = random.randint(1, fewest)
        return Look(queries=queries, keys=keys, layers=layers, heads=heads, reduce=reduce, top=top, stage=stage)
