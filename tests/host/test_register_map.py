"""The register map is consistent, and keeps the promises that drivers rely on."""

import pytest
from bloomgate import Parameters, Reason
from bloomgate.registers import (
    BASE_ADDRESS,
    CONTROL_PAGE,
    IDENTIFICATION,
    PAGE_BYTES,
    QUEUE_RECORD,
    QUEUE_RECORD_BYTES,
    SLOT_PAGE,
    SLOT_RECORD_BYTES,
    STATISTICS,
    Access,
    Field,
    Page,
    Register,
    Window,
    page_count,
    region_bytes,
    slot_page_offset,
)

PAGES = (CONTROL_PAGE, SLOT_PAGE, QUEUE_RECORD)


def test_identification_and_version_come_first() -> None:
    assert [item.offset for item in CONTROL_PAGE][:2] == [0, 4]
    assert "IDENTIFICATION" in [item.name for item in CONTROL_PAGE][0]
    assert IDENTIFICATION.to_bytes(4, "little") == b"BLMG"
    assert [item.name for item in CONTROL_PAGE][1] == "VERSION"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_two_items_overlap(page: Page) -> None:
    taken = [(item.offset + byte, item.name) for item in page for byte in range(item.size)]
    assert len({byte for byte, _ in taken}) == len(taken)
    assert all(0 <= byte < PAGE_BYTES for byte, _ in taken)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fields_fit_and_do_not_overlap(page: Page) -> None:
    for register in page:
        if isinstance(register, Register):
            seen = 0
            for field in register.fields:
                assert field.mask < 1 << 32, (register.name, field.name)
                assert not seen & field.mask, (register.name, field.name)
                seen |= field.mask


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_everything_is_documented(page: Page) -> None:
    for item in page:
        assert item.doc.endswith("."), item.name
        for field in getattr(item, "fields", ()):
            assert field.doc, (item.name, field.name)


def test_fields() -> None:
    field = Field("F", 4, 3, "")
    assert field.mask == 0x70
    assert field.extract(0xFFFFFFAF) == 2
    assert field.insert(7) == 0x70
    for value in (8, -1):
        with pytest.raises(ValueError, match=f"^F must fit in 3 bits, not {value}$"):
            field.insert(value)


def test_a_field_that_does_not_exist() -> None:
    register = Register("R", 0, Access.RO, "", (Field("F", 0, 1, ""),))
    assert register["F"].lsb == 0
    with pytest.raises(KeyError, match="register R has no field G"):
        register["G"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("A", 0, 4), ("A", 4, 4)], "page P has two registers of one name"),
        ([("A", 2, 4)], "P.A is not aligned to a word"),
        ([("A", 0, 6)], "P.A is not aligned to a word"),
        ([("A", 0, 8), ("B", 4, 4)], "P.B overlaps the register before it"),
        ([("A", 4092, 8)], "page P is longer than 4096 bytes"),
    ],
)
def test_a_page_that_cannot_be(items: list[tuple[str, int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Page("P", *(Window(name, offset, size, Access.RO, "") for name, offset, size in items))


def test_reasons_fit_their_field_and_have_a_statistic() -> None:
    field = SLOT_PAGE.register("VERDICT")["REASON"]
    names = [name for name, _ in STATISTICS]
    for reason in Reason:
        assert field.extract(field.insert(reason)) == reason
        assert names.count(f"aborts_{reason.name.lower()}") == 1
    assert field.extract(0) not in list(Reason)
    assert len(set(names)) == len(names)
    assert CONTROL_PAGE.window("STATISTICS").size == 8 * len(names)


def test_every_slot_has_a_record_and_a_page() -> None:
    assert CONTROL_PAGE.window("SLOT_RECORDS").size == 32 * SLOT_RECORD_BYTES
    assert CONTROL_PAGE.window("QUEUE_RECORDS").size == 32 * QUEUE_RECORD_BYTES
    assert max(item.offset + item.size for item in QUEUE_RECORD) == QUEUE_RECORD_BYTES
    for slots in (1, 3, 16, 32):
        parameters = Parameters(slots=slots)
        assert page_count(parameters) == 1 + slots
        assert slot_page_offset(slots - 1) == slots * PAGE_BYTES
        size = region_bytes(parameters)
        assert size & (size - 1) == 0
        assert size // 2 < page_count(parameters) * PAGE_BYTES <= size
        assert BASE_ADDRESS % size == 0


def test_the_widest_geometry_fits_the_fault_register() -> None:
    register = CONTROL_PAGE.register("FAULT_INJECTION")
    register["TABLE"].insert(8 - 1)
    register["ROW"].insert(65536 - 1)
