"""Which rails are the board's total, and what that total covers."""

# The first that is there is the input, and holds all the others.
_INPUTS = (
    ("VIN", "board input, carrier board included"),
    ("VDD_IN", "module input, carrier board excluded"),
    ("POM_5V_IN", "module input, carrier board excluded"),
)
MODULE_RAILS = "module rails, carrier board excluded"

# Fed by another rail that is measured: its power would count twice. NVIDIA adds up the AGX Orin without it.
_FED_BY = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_OF_THE_CARRIER = "CVB_"


def choose(names):
    """The total of rails with these names.

    Returns:
        Numbers of the rails that are added up, and what they cover; ([], "") where there are none.
    """
    for name, covers in _INPUTS:
        if name in names:
            return [names.index(name)], covers
    numbers = [
        number
        for number, name in enumerate(names)
        if _FED_BY.get(name) not in names and not name.startswith(_OF_THE_CARRIER)
    ]
    return numbers, MODULE_RAILS if numbers else ""
