"""The words the small world is made of: names, places, things, opinions."""
# ruff: noqa: SIM905  (lists of words are easier to read and to extend as text)

from __future__ import annotations

FEMALE_NAMES = tuple(
    "Anna Mara Lena Sofia Clara Ines Vera Nora Julia Emma Alice Greta Hanna Ida Karin Lucia Maria "
    "Nadia Olga Paula Rosa Sara Tessa Ulla Wanda Yara Zoe Elsa Diana Bianca".split()
)
MALE_NAMES = tuple(
    "Ivan Tom Paul Oscar Bruno Carl David Erik Felix Georg Hugo Igor Jonas Klaus Leo Marco Nils "
    "Otto Peter Quentin Ralf Simon Tobias Victor Walter Xaver Yuri Anton Boris Daniel".split()
)
SURNAMES = tuple(
    "Kovac Lindholm Moreau Petrov Sandoval Tanaka Ullman Varga Winters Yildiz Zeller Abbott "
    "Bergman Castell Duarte Eklund Farkas Gruber Hartley Ivers Jansen Keller Lombard Mercer Novak "
    "Orlov Pereira Quill Rossi Schmid Tolle Urban Voss Weaver Archer Barlow Corbin Dalton Ekberg "
    "Fontane Garland Hollis Ibsen Jarvis Kemp Larkin Marlow Nash Osborn Palmer Rourke Sorel Tilden "
    "Unger Vance Whitlock Yates Zorn Ames Blythe".split()
)
CITY_STARTS = tuple(
    "Tor Bel Mar Kel Nor Vas Dun Hal Ost Rav Sel Gor Lin Fal Bren Cal Dov Est Gran Hov".split()
)
CITY_ENDS = tuple(
    "vik stad mora wick heim ton dale brook ford haven grad mont port burg field".split()
)
COMPANY_STARTS = tuple("Axi Bryn Cor Delta Ever Fen Glo Hex Ino Jet Kron Lumi Max Neo Omni".split())
COMPANY_ENDS = ("corp", "tech", "soft", "works", "labs")
COUNTRIES = tuple(
    "Norland Velmaria Ostrania Kelbia Dravonia Sunmark Tarvia Belloria Quentia Marovia Zandia "
    "Lumeria".split()
)
LANGUAGES = tuple(
    "Norlic Velmari Ostran Kelbic Dravon Sunnish Tarvic Bellori Quentish Marov Zandi "
    "Lumeric".split()
)
CONTINENTS = ("Aurelia", "Borealis", "Cygnia", "Meridia")
CURRENCIES = ("crown", "florin", "dollar", "peso", "mark", "shilling", "ducat", "lira")
PRODUCTS = tuple(
    "cars phones shoes bikes watches lamps toys clocks boats tents pens chairs".split()
)
# Half of the instruments have strings and half of the professions ask for a university: inference
# asks for this.
STRINGED = ("violin", "guitar", "cello", "harp", "banjo", "piano")
INSTRUMENTS = (*STRINGED, "flute", "trumpet", "drums", "clarinet", "organ", "oboe")
ACADEMIC = ("doctor", "lawyer", "teacher", "pilot", "dentist", "writer", "chemist", "judge")
PROFESSIONS = (
    *ACADEMIC,
    *("painter", "baker", "nurse", "plumber", "carpenter", "farmer", "sailor", "tailor"),
)

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
COLORS = ("red", "blue", "green", "white", "black", "yellow", "brown")
BUILDINGS = tuple("museum library cinema bakery market theater station garden school hotel".split())
FOODS = tuple("apples pears plums nuts eggs cakes lemons cherries".split())
THINGS = tuple("salad cake guitar camera tent map lamp book ball radio".split())
EVENTS = tuple("party picnic concert meeting wedding trip dinner lesson".split())

GOOD_WORDS = tuple(
    "wonderful brilliant charming funny moving clever beautiful superb gripping delightful fresh "
    "warm exciting touching elegant".split()
)
BAD_WORDS = tuple(
    "boring awful dull weak clumsy ugly terrible messy tedious flat silly stale annoying lifeless "
    "predictable".split()
)
ASPECTS = tuple("film plot acting music story cast script ending direction picture".split())

OUTINGS: dict[str, tuple[str, str, str]] = {
    "library": ("read a book", "borrow a novel", "study in silence"),
    "cinema": ("watch a film", "see a movie", "eat popcorn"),
    "bakery": ("buy fresh bread", "get a cake", "smell the rolls"),
    "stadium": ("see the match", "cheer for the team", "watch the game"),
    "pool": ("swim a little", "dive in the water", "take a swim"),
    "museum": ("look at paintings", "see old statues", "admire the art"),
    "park": ("walk the dog", "sit on the grass", "feed the ducks"),
    "station": ("catch a train", "buy a ticket", "wait for the express"),
    "beach": ("lie in the sun", "collect shells", "play in the sand"),
    "kitchen": ("cook a soup", "wash the dishes", "bake a pie"),
}
