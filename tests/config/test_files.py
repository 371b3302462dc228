import resource
import stat
from pathlib import Path

import pytest

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import make_folder, whole_file, write_whole


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_is_the_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "a.json"
    write_whole(file, "ä\r\n")
    assert file.read_bytes() == b"\xc3\xa4\r\n"
    assert mode(file) == 0o600
    assert mode(file.parent) == mode(file.parent.parent) == 0o700
    assert list(file.parent.iterdir()) == [file]


def test_a_lone_surrogate_is_escaped_as_in_json(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", '"\ud800 \U0001f600"')
    assert (tmp_path / "a").read_bytes() == b'"\\ud800 \xf0\x9f\x98\x80"'


def test_the_permissions_of_a_folder_that_is_there_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_failed_block_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_whole(file, "old")
    with pytest.raises(UnicodeEncodeError), whole_file(file) as aside:
        aside.write_text("half \ud800")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_limit_of_file_sizes_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_whole(file, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=f"cannot write '{file}': File too large; raise the limit"):
            write_whole(file, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left on device; free some space"), whole_file(tmp_path / "a"):
        Path("/dev/full").write_text("x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["file/a", "file/b/a", "folder", "x" * 300])
def test_places_where_no_file_can_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(UserError, match=f"cannot write '{tmp_path}"):
        write_whole(tmp_path / name, "text")
    assert names(tmp_path) == ["file", "folder"]
