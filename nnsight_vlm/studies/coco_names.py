"""The 80 objects of COCO, and what descriptions call them."""

from __future__ import annotations

from .named_objects import ObjectNames, object_names

_SYNONYMS = """
person: man, woman, boy, girl, child, kid, baby, toddler, infant, guy, gentleman, lady, adult, teenager, teen,
    human, pedestrian, passerby, rider, cyclist, bicyclist, biker, motorcyclist, skier, snowboarder,
    skateboarder, surfer, swimmer, player, batter, catcher, umpire, referee, athlete, runner, jogger, skater,
    worker, officer, policeman, policewoman, fireman, firefighter, soldier, cowboy, farmer, chef, waiter,
    waitress, driver, passenger, student, teacher, tourist, spectator, crowd, audience, couple, family, bride,
    groom, mother, father, mom, dad, son, daughter, brother, sister, grandmother, grandfather, friend,
    sportsman, fisherman, businessman, businesswoman, salesman, tennis player, baseball player, soccer player,
    people
bicycle: bike, push bike, pushbike, mountain bike, tricycle, tandem
car: automobile, sedan, suv, hatchback, minivan, taxi, taxicab, cab, jeep, limousine, limo, coupe,
    convertible, station wagon, police car, sports car
motorcycle: motorbike, motor bike, motor cycle, moped, motor scooter, dirt bike, vespa
airplane: aeroplane, plane, aircraft, jet, airliner, jetliner, biplane, jumbo jet, fighter jet
bus: coach bus, minibus, double decker, double decker bus, school bus, tour bus, trolleybus
train: locomotive, steam engine, railcar, subway train, passenger train, freight train, tram, streetcar
truck: lorry, pickup, pickup truck, pick up truck, fire truck, firetruck, fire engine, semi truck, tow truck,
    dump truck, garbage truck, food truck, semi trailer
boat: ship, sailboat, rowboat, motorboat, speedboat, canoe, kayak, yacht, ferry, dinghy, raft, gondola, barge,
    sailing boat, vessel, fishing boat, cruise ship, catamaran
traffic light: stoplight, stop light, traffic signal, street signal, traffic lamp
fire hydrant: hydrant, fireplug
stop sign: -
parking meter: -
bench: park bench, pew
bird: pigeon, seagull, gull, duck, duckling, goose, swan, parrot, sparrow, crow, owl, eagle, hawk, falcon,
    hen, rooster, penguin, peacock, flamingo, pelican, ostrich, stork, robin, finch, dove, parakeet, cockatoo,
    heron
cat: kitten, kitty, feline, tomcat
dog: puppy, pup, doggy, doggie, hound, canine, poodle, terrier, beagle, bulldog, labrador, retriever, golden
    retriever, german shepherd, corgi, dachshund, pug, chihuahua, husky, dalmatian, sheepdog, spaniel, collie
horse: pony, foal, colt, mare, stallion
sheep: lamb, ewe, ram
cow: bull, calf, ox, cattle, heifer, bovine
elephant: -
bear: polar bear, grizzly bear, grizzly, brown bear, black bear, bear cub
zebra: -
giraffe: -
backpack: back pack, rucksack, knapsack, book bag, bookbag, school bag
umbrella: parasol
handbag: hand bag, purse, tote, tote bag, shoulder bag
tie: necktie, neck tie, bow tie, bowtie
suitcase: luggage, briefcase, suit case
frisbee: flying disc, flying disk
skis: ski
snowboard: snow board
sports ball: ball, soccer ball, football, basketball, baseball, tennis ball, volleyball, beach ball, golf
    ball, softball
kite: -
baseball bat: -
baseball glove: baseball mitt, catcher's mitt, mitt, catchers mitt
skateboard: skate board, longboard
surfboard: surf board, boogie board, bodyboard
tennis racket: tennis racquet, racket, racquet
bottle: wine bottle, beer bottle, water bottle
wine glass: glass of wine, wineglass, champagne glass, goblet
cup: mug, coffee cup, teacup, tea cup, coffee mug, cup of coffee, cup of tea, mug of beer
fork: -
knife: pocketknife, steak knife, butter knife, butcher knife
spoon: teaspoon, tablespoon, soup spoon
bowl: soup bowl, salad bowl, mixing bowl
banana: -
apple: -
sandwich: burger, hamburger, cheeseburger, sub sandwich, grilled cheese, panini, club sandwich
orange: mandarin, tangerine, clementine
broccoli: -
carrot: -
hot dog: hotdog, frankfurter, wiener
pizza: pepperoni pizza
donut: doughnut
cake: cupcake, birthday cake, wedding cake, cheesecake
chair: armchair, arm chair, stool, bar stool, barstool, recliner, rocking chair, office chair, folding chair,
    lawn chair, beach chair, high chair, highchair
couch: sofa, loveseat, love seat, settee, futon
potted plant: houseplant, house plant, plant, pot plant, flower pot, flowerpot
bed: bunk bed, mattress, crib
dining table: table, desk, kitchen table, coffee table, dinner table, picnic table
toilet: urinal, commode, lavatory
tv: television, tv set, television set, t.v., flat screen, flatscreen, flat screen tv, flat screen television,
    monitor, computer monitor, tv screen
laptop: laptop computer, notebook computer, macbook
mouse: computer mouse
remote: remote control, tv remote, game controller, wii remote, wiimote
keyboard: computer keyboard
cell phone: cellphone, cellular phone, mobile phone, mobile, smartphone, smart phone, phone, iphone, telephone
microwave: microwave oven
oven: stove, stovetop oven, range oven
toaster: -
sink: washbasin, wash basin, basin
refrigerator: fridge, freezer
book: novel, textbook, paperback
clock: clock tower, alarm clock, wall clock, wristwatch
vase: -
scissors: scissor, shears, pair of scissors
teddy bear: teddy, stuffed bear, plush bear, toy bear
hair drier: hair dryer, hairdryer, hairdrier, blow dryer, blow drier
toothbrush: tooth brush
"""
_IGNORED = """
toilet paper, toilet seat, toilet brush, toilet roll, train station, train track, train platform, railroad
car, train car, bus stop, bus station, bus shelter, bus lane, car park, parking lot, table tennis, table
cloth, table lamp, table top, dog house, doghouse, dog food, cat food, bird cage, bird house, bird bath, bird
feeder, horse carriage, cowboy hat, baseball cap, baseball field, baseball game, baseball uniform, baseball
diamond, baseball stadium, football field, football game, basketball court, basketball hoop, basketball game,
soccer field, soccer game, tennis court, tennis match, tie dye, piano keyboard, musical keyboard, book shelf,
book case, cup board, cup holder, bed room, bed spread, bed sheet, bear claw, boat house, boat dock, boat
ramp, kite string, plane ticket, apple juice, apple pie, apple tree, apple sauce, orange juice, orange tree,
banana bread, banana tree, cake stand, cake pan, pan cake, chair lift, ski lift, ski slope, ski resort, ski
pole, ski boot, ski mask, ski jacket, surf shop, power plant, plant life, mobile home, remote area, remote
location, remote island, remote village, remote beach, remote place, oven mitt, oven glove, clock face, bottle
cap, bottle opener, knife block, fork lift, phone booth, telephone booth, telephone pole, telephone line,
phone number, bicycle lane, bike lane, bike path, bike rack, bicycle rack, bike helmet, umbrella stand, zebra
crossing, cat walk, couple of, family of, family room
"""
"""Words that hold a name and name none of the 80."""


def _lists(text: str) -> list[str]:
    """The members of a list that is separated by commas, over several lines."""
    return [" ".join(member.split()) for member in text.split(",") if member.strip(" \n-")]


def _entries() -> dict[str, list[str]]:
    """Each name with its synonyms; lines that begin with a space go on with the line before."""
    lines = _SYNONYMS.strip().replace("\n    ", " ").splitlines()
    return {name: _lists(others) for name, _, others in (line.partition(":") for line in lines)}


COCO: ObjectNames = object_names(_entries(), ignored=_lists(_IGNORED))
"""What finds the 80 names; `negation` is heeded and each name is given once."""


def coco_objects(text: str) -> tuple[str, ...]:
    """The objects of COCO that a text names, each once, in the order of the text.

    Synonyms as descriptions use them (`man`, `kitten`, `sofa`) stand for COCO's names; longer names are found first, so
    that a hot dog is no dog and a teddy bear no bear; what the text denies (`no dog`) is not named. For amounts, or
    other names, write `object_names`.

    >>> coco_objects("Two men with a puppy on a sofa; there is no cat, only a teddy bear.")
    ('person', 'dog', 'couch', 'teddy bear')
    """
    return COCO(text)
