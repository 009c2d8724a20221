"""Limits of control groups as systems of several kinds show them."""

import pytest

from kbnet.inference.cgroups import memory_left

MEBIBYTE = 2**20
V1_UNLIMITED = 9223372036854771712
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = (
    "31 23 0:27 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n"
    "36 23 0:31 {root} /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
)


@pytest.fixture
def system(tmp_path):
    """`system(cgroup, mountinfo, files)`: a file system root that holds these texts; `files` by path."""

    def build(cgroup, mountinfo, files):
        for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, **files}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(text))
        return tmp_path

    return build


def v2(path, limit, used, **others):
    folder = f"sys/fs/cgroup{path}"
    named = {f"{folder}/memory.{name}": value for name, value in others.items()}
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": used, **named}


def v1(path, limit, used, stat=""):
    folder = f"sys/fs/cgroup/memory{path}"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": stat,
    }


def test_without_control_groups_there_is_no_limit(tmp_path, system):
    assert memory_left(tmp_path) is None
    assert memory_left(system("0::/user.slice\n", V2_MOUNT, {})) is None
    assert memory_left(system("0::/\n", V2_MOUNT, v2("", "max\n", 5))) is None


def test_version_2_counts_the_least_of_all_levels(system):
    files = v2("/a", 300 * MEBIBYTE, 200 * MEBIBYTE) | v2("/a/b", "max", 10) | v2("/a/b/c", 900 * MEBIBYTE, 0)
    root = system("0::/a/b/c\n", V2_MOUNT, files)
    assert memory_left(root) == 100 * MEBIBYTE
    high = v2("/a/b", "max", 10, high=60 * MEBIBYTE)
    assert memory_left(system("0::/a/b/c\n", V2_MOUNT, high)) == 60 * MEBIBYTE - 10


def test_version_1_is_read_from_the_memory_controllers_own_mount(system):
    cgroup = "7:cpu,cpuacct:/other\n4:memory:/jobs/one\n0::/\n"
    files = v1("", V1_UNLIMITED, 10**9) | v1("/jobs", V1_UNLIMITED, 10**9) | v1("/jobs/one", 560 * MEBIBYTE, 0)
    assert memory_left(system(cgroup, V1_MOUNT.format(root="/"), files)) == 560 * MEBIBYTE
    parent = files | v1("/jobs", 500 * MEBIBYTE, 100 * MEBIBYTE)
    assert memory_left(system(cgroup, V1_MOUNT.format(root="/"), parent)) == 400 * MEBIBYTE


@pytest.mark.parametrize("mounted", ["/docker/abc", "/"])
def test_a_container_that_sees_its_own_group_alone(system, mounted):
    """With the group mounted as the root, or a path of the host that is not visible."""
    root = system("4:memory:/docker/abc\n", V1_MOUNT.format(root=mounted), v1("", 100 * MEBIBYTE, 60 * MEBIBYTE))
    assert memory_left(root) == 40 * MEBIBYTE


def test_file_contents_that_are_merely_kept_do_not_count_as_used(system):
    stat = f"anon 5\ninactive_file {50 * MEBIBYTE}\nactive_file 7\n"
    root = system("0::/\n", V2_MOUNT, v2("", 300 * MEBIBYTE, 100 * MEBIBYTE, stat=stat))
    assert memory_left(root) == 250 * MEBIBYTE
    stat = f"inactive_file 1\ntotal_inactive_file {50 * MEBIBYTE}\n"
    one = system("4:memory:/\n", V1_MOUNT.format(root="/"), v1("", 300 * MEBIBYTE, 100 * MEBIBYTE, stat))
    assert memory_left(one) == 250 * MEBIBYTE


@pytest.mark.parametrize(("limit", "used"), [("gibberish", "0"), ("1000", "gibberish"), ("", "")])
def test_what_makes_no_sense_is_passed_over(system, limit, used):
    assert memory_left(system("0::/\nnonsense\n", V2_MOUNT + "short line\n", v2("", limit, used))) is None


def test_a_group_over_its_limit_has_nothing_left(system):
    assert memory_left(system("0::/\n", V2_MOUNT, v2("", 1000, 2000))) == 0


def test_places_with_spaces_are_found(system):
    mount = "30 23 0:26 / /my\\040groups rw shared:4 - cgroup2 cgroup2 rw\n"
    files = {"my groups/memory.max": 1000, "my groups/memory.current": 400}
    assert memory_left(system("0::/\n", mount, files)) == 600
