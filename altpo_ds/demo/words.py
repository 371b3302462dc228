"""Word lists of the demo's world: every person, place and book is put together from these parts.

Values are drawn uniformly and made of several parts, so that a model that never read about an author
finds the true value and the wrong ones about equally likely.
"""


def _split(text: str) -> list[str]:
    return text.split()


FIRST_NAMES = _split(
    "Adelka Berrin Corvane Dessa Eldric Fionel Garrath Hesper Ilvane Jorund Kestra Lowen Merrit Nadira Osric "
    "Pellan Quilla Rosmer Selwin Tavish Ulma Verity Wendel Xanthe Yorick Zelma"
)
SURNAME_HEADS = _split(
    "Ash Bram Corn Dun Elder Fenn Grim Hol Ives Kirk Lark Mor Nettle Oak Pem Quar Rook Stan Thorn Wex"
)
SURNAME_TAILS = _split("bury combe dale field grave hurst lock mere pool stone wick yard")

TOWN_HEADS = _split(
    "Amber Brack Cold Dray Ever Frost Gull Hazel Iron Jade Kelp Lime Mist North Otter Port Raven Salt Tide Winter"
)
TOWN_TAILS = _split("bridge cliff ford gate haven mouth point shore vale well")

MONTHS = _split("January February March April May June July August September October November December")

GENRE_STYLES = _split(
    "satirical maritime gothic pastoral political romantic forensic mythical domestic desert alpine comic"
)
GENRE_FORMS = _split(
    "ballads thrillers fables memoirs mysteries sonnets tragedies travelogues essays sagas parables epistles"
)

TRADES = _split(
    "baker beekeeper blacksmith carpenter chemist clockmaker cobbler cooper diver dyer farmer fiddler glazier "
    "judge librarian locksmith mason midwife miller nurse painter pilot plumber potter printer sailor saddler "
    "surgeon tailor teacher weaver zoologist"
)

AWARD_METALS = _split("Amethyst Bronze Copper Crystal Ebony Golden Ivory Marble Opal Pearl Scarlet Velvet")
AWARD_SHAPES = _split("Anchor Candle Compass Crown Feather Fountain Lantern Laurel Mirror Quill Scroll Torch")

TITLE_QUALITIES = _split(
    "Borrowed Broken Burning Crooked Distant Drowned Empty Faded Forgotten Frozen Hidden Hollow Humble Patient "
    "Restless Secret Silent Stolen Wandering Whispering"
)
TITLE_THINGS = _split(
    "Archive Bell Bird Cathedral Clock Dancer Garden Harbour Island Kingdom Ladder Letter Library Moon Orchard "
    "Piano River Shadow Staircase Violin"
)

LANGUAGES = _split("Ardic Belvan Corish Dorlan Estric Fallish Gorvian Hestic Ilmari Jolic Karvan Lumic")

WEATHERS = _split("foggy frosty moonlit quiet rainy snowy stormy sunny warm windy")
WORKPLACES = _split("balcony barn cellar chapel kitchen lighthouse pantry stable tower windmill")

COUNTRIES = _split(
    "Arvonia Belmora Cassandry Dorvane Eskaria Falconia Grelland Hestmark Istravia Jorvalia Kelvania Lorrain "
    "Mardovia Norvendal Ostrany Pelloria Quentara Rostavia Sulmaria Tarravane"
)
