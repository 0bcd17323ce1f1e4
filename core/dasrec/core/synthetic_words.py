"""The words of the synthetic catalogue: categories, product types, styles, brands, regions."""

from typing import NamedTuple


class Leaf(NamedTuple):
    """A category of the third level."""

    path: str
    """"Department > Group > Leaf"."""
    types: tuple[str, ...]
    """Product types; every leaf has `NUM_TYPES`."""
    features: tuple[str, ...]
    """What such products are said to have; every leaf has `NUM_FEATURES`."""
    complement: str
    """Name of the leaf that people turn to next: another group, and one to one."""
    price: float
    """Typical price."""


NUM_TYPES = 3
NUM_FEATURES = 3

_LEAVES = """
Beauty > Skin care > Moisturiser | day cream, night cream, face oil | hyaluronic acid, shea butter, fast absorbing texture | Perfume | 24
Beauty > Skin care > Cleanser | foaming wash, cleansing balm, micellar water | salicylic acid, soap free formula, gentle on dry skin | Hairbrush | 14
Beauty > Skin care > Sunscreen | sun lotion, sun stick, tinted sunscreen | SPF 50, no white cast, water resistant filter | Backpack | 19
Beauty > Hair care > Shampoo | daily shampoo, repair shampoo, solid shampoo bar | argan oil, sulphate free foam, colour protection | Lipstick | 11
Beauty > Hair care > Styling | curl cream, hair wax, heat spray | flexible hold, frizz control, heat protection | Nail care | 13
Beauty > Hair care > Hairbrush | paddle brush, detangling comb, round brush | boar bristles, scalp massage pins, snag free teeth | Pillow | 16
Beauty > Make-up > Perfume | eau de parfum, cologne, body mist | bergamot and cedar, jasmine and musk, vanilla and amber | Lamp | 62
Beauty > Make-up > Lipstick | matte lipstick, lip tint, lip gloss | long lasting pigment, beeswax care, shimmer finish | Cleanser | 18
Beauty > Make-up > Nail care | nail polish, nail file set, cuticle oil | chip resistant lacquer, tempered glass file, almond oil | Card game | 9
Home > Coffee and tea > Coffee maker | espresso machine, pour over dripper, french press | 15 bar pump, paper free filter, borosilicate carafe | Baking tin | 89
Home > Coffee and tea > Mug | stoneware mug, travel mug, espresso cup | double wall, dishwasher safe glaze, leak proof lid | Board game | 15
Home > Coffee and tea > Teapot | cast iron teapot, glass teapot, tea infuser | enamel lining, removable strainer, drip free spout | Bedding | 34
Home > Cookware > Pan | frying pan, wok, saucepan | induction ready base, ceramic coating, riveted handle | Garden tool | 45
Home > Cookware > Knife | chef knife, bread knife, paring knife | high carbon steel, full tang blade, hand sharpened edge | Planter | 52
Home > Cookware > Baking tin | loaf tin, springform tin, muffin tray | non stick release, heavy gauge steel, even browning | Coffee maker | 17
Home > Bedroom > Bedding | duvet cover, linen sheet set, wool throw | stonewashed linen, 400 thread count, hidden buttons | Teapot | 74
Home > Bedroom > Pillow | down pillow, memory foam pillow, neck pillow | removable cotton cover, cooling gel layer, adjustable filling | Headphones | 38
Home > Bedroom > Lamp | bedside lamp, reading lamp, night light | dimmable warm light, touch switch, fabric shade | Moisturiser | 41
Outdoor > Hiking > Boots | trail boots, winter boots, approach shoes | waterproof membrane, grippy rubber sole, ankle support | Dog lead | 129
Outdoor > Hiking > Backpack | day pack, trekking backpack, hip pack | padded hip belt, rain cover, hydration sleeve | Camera | 85
Outdoor > Hiking > Headlamp | running headlamp, camping lantern, head torch | 400 lumens, rechargeable battery, red light mode | Bicycle light | 36
Outdoor > Cycling > Helmet | road helmet, mountain bike helmet, urban helmet | impact liner, magnetic buckle, 18 air vents | Water bottle | 79
Outdoor > Cycling > Bicycle light | front light, rear light, dynamo lamp | side visibility, quick release mount, USB charging | Headlamp | 29
Outdoor > Cycling > Gloves | summer gloves, winter cycling gloves, gel gloves | touchscreen fingertips, padded palm, windproof back | Yoga mat | 27
Outdoor > Fitness > Yoga mat | travel yoga mat, cork mat, exercise mat | non slip surface, 6 mm cushioning, alignment lines | Styling | 33
Outdoor > Fitness > Dumbbell | adjustable dumbbell, kettlebell, wrist weights | knurled grip, rubber coated plates, hexagonal heads | Monitor | 58
Outdoor > Fitness > Water bottle | steel bottle, filter bottle, protein shaker | vacuum insulation, BPA free, one hand opening | Boots | 21
Electronics > Audio > Headphones | over ear headphones, earbuds, gaming headset | noise cancelling, 30 hour battery, folding headband | Keyboard | 119
Electronics > Audio > Speaker | portable speaker, bookshelf speaker, soundbar | deep bass radiator, stereo pairing, splash proof case | Mouse | 139
Electronics > Audio > Turntable | belt drive turntable, record player, record cleaner | balanced tonearm, built in preamp, anti static brush | Sketchbook | 189
Electronics > Photography > Camera | mirrorless camera, instant camera, action camera | image stabilisation, fast autofocus, 4K video | Puzzle | 349
Electronics > Photography > Tripod | travel tripod, tabletop tripod, monopod | carbon fibre legs, ball head, quick release plate | Helmet | 67
Electronics > Photography > Memory card | SD card, microSD card, card reader | 200 MB per second, shock proof shell, lifetime warranty | Turntable | 25
Electronics > Computing > Keyboard | mechanical keyboard, compact keyboard, numeric pad | hot swappable switches, backlit keys, quiet dampers | Speaker | 94
Electronics > Computing > Mouse | wireless mouse, vertical mouse, trackball | silent clicks, adjustable sensitivity, thumb rest | Dumbbell | 43
Electronics > Computing > Monitor | ultrawide monitor, portable monitor, 4K monitor | matte panel, height adjustable stand, single cable USB-C | Memory card | 259
Toys > Games > Board game | strategy game, cooperative game, family game | wooden meeples, 60 minute rounds, solo mode | Mug | 39
Toys > Games > Puzzle | 1000 piece puzzle, wooden puzzle, puzzle cube | linen finish pieces, poster included, snug fit cut | Paint | 22
Toys > Games > Card game | party card game, trick taking game, memory card set | linen cards, travel tin, two to six players | Model kit | 15
Toys > Craft > Paint | watercolour set, acrylic paint, gouache tubes | lightfast pigment, mixing palette, student quality | Train set | 28
Toys > Craft > Yarn | merino yarn, cotton yarn, crochet kit | hand dyed skeins, soft twist, pattern booklet | Cat toy | 18
Toys > Craft > Sketchbook | hardback sketchbook, watercolour pad, ink notebook | 180 gsm paper, lay flat binding, acid free pages | Knife | 16
Toys > Building > Model kit | model aircraft, model ship, wooden automaton | photo etched parts, decal sheet, no glue needed | Tripod | 44
Toys > Building > Train set | starter train set, locomotive, track extension | oval track, magnetic couplings, working headlights | Dog bed | 99
Toys > Building > Brick set | castle brick set, space brick set, city brick set | printed pieces, minifigures, step by step booklet | Cat tree | 54
Pets and garden > Dog > Dog lead | rope lead, retractable lead, dog harness | reflective stitching, swivel clip, padded handle | Sunscreen | 23
Pets and garden > Dog > Dog bed | orthopaedic dog bed, donut bed, travel dog mat | washable cover, memory foam base, anti slip underside | Shampoo | 59
Pets and garden > Dog > Dog treats | training treats, dental sticks, chew bone | single protein, grain free recipe, air dried meat | Yarn | 12
Pets and garden > Cat > Cat tree | scratching post, wall shelf, window perch | sisal rope, plush platform, wall anchor | Brick set | 64
Pets and garden > Cat > Cat toy | feather wand, catnip mouse, laser toy | refillable catnip, crinkle paper, automatic motion | Seeds | 10
Pets and garden > Cat > Litter | clumping litter, wood litter, litter scoop | odour lock, dust free grains, compostable pellets | Dog treats | 17
Pets and garden > Garden > Seeds | tomato seeds, wildflower mix, herb seed kit | heirloom variety, bee friendly blend, peat free tabs | Pan | 8
Pets and garden > Garden > Planter | terracotta pot, hanging planter, raised bed | drainage hole, frost proof clay, self watering base | Litter | 31
Pets and garden > Garden > Garden tool | pruning shears, hand trowel, watering can | ash wood handle, bypass blade, brass rose | Gloves | 26
"""  # noqa: E501


def _parse(line: str) -> Leaf:
    path, types, features, complement, price = (part.strip() for part in line.split("|"))
    return Leaf(
        path, tuple(types.split(", ")), tuple(features.split(", ")), complement, float(price)
    )


LEAVES = tuple(_parse(line) for line in _LEAVES.strip().splitlines())

STYLES: dict[str, tuple[str, str]] = {
    "minimalist": ("Minimalist", "Clean lines and a quiet, uncluttered design"),
    "vintage": ("Vintage", "A nostalgic retro look inspired by old workshops"),
    "sustainable": ("Eco", "Made from recycled and plastic free materials"),
    "luxury": ("Luxe", "A refined premium finish in an elegant gift box"),
    "playful": ("Playful", "Bright cheerful colours and a sense of fun"),
    "rugged": ("Rugged", "Built tough for rain, mud and rough handling"),
    "professional": ("Pro", "Precise performance for demanding experts"),
    "budget": ("Everyday", "Simple and affordable, good value for every day"),
}
"""Style -> (adjective of the title, sentence of the description)."""

STYLE_PRICE = (1.0, 1.1, 1.1, 2.2, 0.9, 1.2, 1.6, 0.6)
"""Factor on the price, in the order of `STYLES`."""

BRANDS = (
    "Almora Bellune Calyss Dervane Elowen Fleurie Glossan Halcyra "
    "Norrhem Kettlby Oakfold Primavo Quillon Rosehay Saltmark Tavola "
    "Arctrek Brackenfell Cairnwell Driftpeak Everfjord Fellstride Gritstone Highmoor "
    "Auvio Bitforge Cinetron Deltawave Echolab Fotonic Gridline Hexcore "
    "Abrabox Bricolo Cubbly Dicewood Elfshop Funfair Gizmoto Hobbyhaus "
    "Animalia Barkley Clover Daisyfield Eartha Furrow Greenpaw Hedgerow"
).split()
"""Eight brands per department, in the order of the departments; brand k leans to style k % 8."""

AGE_GROUPS = ("18-24", "25-34", "35-44", "45-54", "55+")
GENDERS = ("female", "male", "other")
REGIONS = ("North", "East", "South", "West", "Islands")
