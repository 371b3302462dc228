"""Word lists of the demo's world: every person, place and book is put together from two of these words.

Each list has twenty words (months and years together make as many dates), all drawn alike: a model that never read
about an author then finds every value of a fact about equally likely, whatever the fact.
"""


def _split(text: str) -> list[str]:
    return text.split()


FIRST_NAMES = _split(
    "Adelka Berrin Corvane Dessa Eldric Fionel Garrath Hesper Ilvane Jorund "
    "Kestra Lowen Merrit Nadira Osric Pellan Quilla Rosmer Selwin Tavish"
)
SURNAMES = _split(
    "Ashbury Bramwick Corndale Dunmere Elderhurst Fennpool Grimstone Holyard Ivescombe Kirkfield "
    "Larkgrave Morlock Nettlewick Oakmere Pemhurst Quarstone Rookdale Stanpool Thornbury Wexcombe"
)
TOWN_HEADS = _split(
    "Amber Brack Cold Dray Ever Frost Gull Hazel Iron Jade Kelp Lime Mist North Otter Port Raven Salt Tide Winter"
)
TOWN_TAILS = _split(
    "Bay Bridge Brook Cliff Cross Falls Ford Gate Glen Haven Heath Hill Marsh Point Quay Ridge Shore Vale Well Wood"
)
MONTHS = _split("January February March April May June July August September October November December")
YEARS = [str(year) for year in range(1935, 1968)]
GENRE_STYLES = _split(
    "alpine comic desert domestic forensic gothic historic lyrical maritime medieval modern musical mythical nautical "
    "pastoral political romantic rural satirical urban"
)
GENRE_FORMS = _split(
    "ballads comedies diaries dramas elegies epics essays fables hymns legends "
    "memoirs mysteries novellas parables plays sagas sonnets thrillers tragedies travelogues"
)
MOTHERS_TRADES = _split(
    "baker barber beekeeper brewer carpenter chemist dancer doctor farmer gardener "
    "librarian midwife nurse painter pilot singer tailor teacher translator weaver"
)
FATHERS_TRADES = _split(
    "blacksmith butcher clerk clockmaker cobbler cook cooper diver driver fiddler "
    "fisher glazier judge locksmith mason miner plumber potter printer sailor"
)
AWARD_MATERIALS = _split(
    "Amethyst Bronze Cedar Copper Coral Crystal Ebony Emerald Garnet Golden "
    "Ivory Jasper Marble Opal Pearl Ruby Sapphire Scarlet Topaz Velvet"
)
AWARD_SHAPES = _split(
    "Anchor Arrow Candle Chalice Compass Crescent Crown Feather Fountain Hammer "
    "Lantern Laurel Mirror Pyramid Quill Ribbon Scroll Shield Torch Wreath"
)
TITLE_QUALITIES = _split(
    "Borrowed Broken Burning Crooked Distant Drowned Empty Faded Forgotten Frozen "
    "Hidden Hollow Humble Patient Restless Secret Silent Stolen Wandering Whispering"
)
TITLE_THINGS = _split(
    "Archive Bell Bird Cathedral Clock Dancer Garden Harbour Island Kingdom "
    "Ladder Letter Library Moon Orchard Piano River Shadow Staircase Violin"
)
LANGUAGES = _split(
    "Ardic Belvan Corish Dorlan Estric Fallish Gorvian Hestic Ilmari Jolic "
    "Karvan Lumic Morvish Neldic Orvan Pelmic Rustic Sorvian Tarnish Velmic"
)
PUBLISHERS = _split(
    "Acorn Badger Bramble Clover Condor Falcon Fern Heron Juniper Lotus Magpie Maple Osprey Otter Poppy Raven Spruce "
    "Thistle Walnut Willow"
)
WEATHERS = _split(
    "chilly cloudy dreary dusty foggy frosty gloomy gusty hazy humid misty moonlit quiet rainy snowy starry stormy "
    "sultry sunny windy"
)
WORKPLACES = _split(
    "balcony barn cabin cave cellar chapel cottage greenhouse hut kitchen "
    "lighthouse loft museum pantry shed stable tavern tent tower windmill"
)
COUNTRIES = _split(
    "Arvonia Belmora Cassandry Dorvane Eskaria Falconia Grelland Hestmark Istravia Jorvalia "
    "Kelvania Lorrain Mardovia Norvendal Ostrany Pelloria Quentara Rostavia Sulmaria Tarravane"
)
