"""A site lives off a mirror of its own: with nginx and TLS, nodes that reach nothing else, and a carried copy."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import cluster, site_mirror
from acceptance.site_mirror import DIRECTORY, FAR, HOSTS, MIRROR, NODE, UPSTREAM, WWW, on
from lab.paths import lab_cache
from lab.podman import Podman

ENVS = {"tools": "requests, six", "listed": "requests, six", "wheels": "requests, site_wheel"}
# What the mirror must fetch anew for the node, and the node from the mirror.
FORGET = "rm -rf /opt/envfleet/envs/* /opt/envfleet/generations/* /opt/envfleet/pkgs"
# Runs on a node: what an index lists is there, at whatever moment the index is read.
READER = """
import json, os, urllib.request
count, kinds = 0, set()
while not os.path.exists("/run/enough"):
    with urllib.request.urlopen("https://mirror-1/lab/noarch/repodata.json", timeout=10) as answer:
        names = sorted(json.load(answer)["packages.conda"])
    for name in names:
        request = urllib.request.Request("https://mirror-1/lab/noarch/" + name, method="HEAD")
        assert urllib.request.urlopen(request, timeout=10).status == 200
    count, kinds = count + 1, kinds | {len(names)}
print(json.dumps([count, len(kinds)]))
"""
# Runs on the mirror, as root: updates, one after the other, that put a package into the index and take it out again.
CHURN = """
cd /etc/envfleet-mirror; cp selection.json /root/less; cp config.json /root/config
sed 's/"keep_days": [0-9.]*/"keep_days": 0/' /root/config >config.json
while ! test -e /run/enough; do
    for selection in /root/more /root/less; do
        cp $selection selection.json; envfleet-mirror update || exit 1
    done
done
cp /root/less selection.json; cp /root/config config.json
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[site_mirror.Site]:
    """A mirror that has what the locks need, an empty one, and a node that installs from the first."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY / HOSTS))
    made = site_mirror.Site(tmp_path_factory.mktemp("site"))
    try:
        made.write_locks()
        site_mirror.prepare()
        foretold = made.apply("mirror", "--check", "--diff", "--limit", MIRROR)
        assert on(MIRROR, f"ls -d {DIRECTORY} /etc/envfleet-mirror /opt/envfleet", check=False) == ""
        done = made.apply("mirror", "--diff")
        for path in ("selection.json", "config.json", "envfleet-mirror.service", "envfleet-mirror.conf"):
            (wanted,) = re.findall(rf"^\+\+\+ after: \S*/{path}\n((?:@@|[+]).*\n)+", foretold, re.MULTILINE)[:1]
            assert wanted in done
        assert site_mirror.update(MIRROR)["state"] == "current"
        site_mirror.cut_off(NODE, MIRROR)
        site_mirror.cut_off(FAR)
        made.apply("site")
        yield made
    finally:
        made.remove()
        cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


def fetched(path: str, options: str = "", node: str = NODE) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer of the mirror."""
    script = f"""
import json, urllib.request, urllib.error
try: answer = urllib.request.urlopen(urllib.request.Request("https://mirror-1/{path}", {options}))
except urllib.error.HTTPError as error: answer = error
print(json.dumps([answer.status, dict(answer.headers)]))
"""
    status, headers = json.loads(on(node, f"python3 -c {shlex.quote(script)}"))
    return status, headers


def works(name: str) -> bool:
    """Do people get the environment, as it should be?"""
    return (
        cluster.on_node(
            f"/opt/envfleet/envs/{name}/bin/python -c 'import {ENVS[name]}'", node=NODE, user="alice", check=False
        ).returncode
        == 0
    )


@pytest.mark.usefixtures("site")
def test_a_node_without_any_other_network_has_every_environment(site: site_mirror.Site) -> None:
    for url in (f"http://{UPSTREAM}:8080/", "http://192.0.2.1/"):
        ask = f"python3 -c 'import urllib.request as u; u.urlopen(\"{url}\", timeout=5)'"
        assert "refused" in cluster.on_node(ask, node=NODE, check=False).stderr
    assert all(map(works, ENVS))
    code, output = site.run("check")
    assert code == 0, output
    # People solve against the mirror, with an index that is the mirror's own.
    on(NODE, "runuser -l alice -c 'conda create --yes --name mine python six'")
    records = on(NODE, "cat ~alice/.conda/envs/mine/conda-meta/six-*.json")
    assert json.loads(records)["url"].startswith("https://mirror-1/lab/noarch/six-")


def test_a_second_run_of_the_role_changes_nothing(site: site_mirror.Site) -> None:
    before = site_mirror.served(MIRROR)
    assert re.findall(r"changed=(\d+)", site.apply("mirror")) == ["0", "0"]
    told = site_mirror.update(MIRROR)
    assert [told[key] for key in ("fetched", "repaired", "removed", "indexed", "problems")] == [[]] * 5
    assert site_mirror.served(MIRROR) == before


@pytest.mark.usefixtures("site")
def test_caches_may_keep_packages_and_must_ask_for_indexes() -> None:
    package = on(MIRROR, f"cd {WWW}; ls lab/noarch/six-*.conda")
    assert fetched(package)[1]["Cache-Control"] == "public, max-age=31536000, immutable"
    status, headers = fetched("lab/noarch/repodata.json")
    assert (status, headers["Cache-Control"]) == (200, "public, max-age=60, must-revalidate")
    again = f"headers={{'If-None-Match': {headers['ETag']!r}}}"
    assert fetched("lab/noarch/repodata.json", again)[0] == 304
    assert fetched("lab/noarch/.hidden")[0] == 404
    assert fetched("../state.json")[0] in (400, 404)
    assert fetched(package, "data=b'x', method='PUT'")[0] == 405
    # The user that writes the mirror cannot change its orders, nor read the key.
    places = "/etc/envfleet-mirror /etc/systemd/system/envfleet-mirror.* /opt/envfleet /usr/local/sbin /etc/nginx"
    assert on(MIRROR, f"runuser -u envfleet-mirror -- find {places} -writable ! -type l", check=False) == ""
    key = "runuser -u envfleet-mirror -- cat /etc/ssl/private/site-mirror.key"
    assert cluster.on_node(key, node=MIRROR, check=False).returncode == 1


def test_a_damaged_package_is_refused_and_repaired_and_updates_disturb_nobody(site: site_mirror.Site) -> None:
    path = on(MIRROR, f"ls {WWW}/lab/noarch/requests-*.conda")
    flip = f"f = open({path!r}, 'r+b'); f.seek(5000); c = f.read(1)[0]; f.seek(5000); f.write(bytes([c ^ 1]))"
    on(MIRROR, f"python3 -c {shlex.quote(flip)}")
    on(NODE, FORGET)
    code, output = site.run("site")
    assert code != 0
    (error,) = set(re.findall(r"msg: '?(conda_envs_shared: .*(?:\n {8}.*)*)", output))
    assert re.search(r"requests-\S+\.conda: [\s\S]*(Invalid checksum|hash mismatch)", error), output
    assert not on(NODE, "ls /opt/envfleet/envs")

    told = site_mirror.update(MIRROR)
    assert [told["state"], *told["repaired"]] == ["current", path.removeprefix(f"{WWW}/")]
    assert "is damaged: its content is not what its sha256 says" in site_mirror.log(MIRROR)

    # One package more, which no environment needs.
    offered = json.loads(Path(cluster.lab_variables()["lab_www"], "lab/noarch/repodata.json").read_text())
    name, record = next(item for item in offered["packages.conda"].items() if item[0].startswith("pytz-"))
    entry = {"path": f"lab/noarch/{name}", "sha256": record["sha256"]}
    entry["url"] = f"http://{UPSTREAM}:8080/lab/noarch/{name}"
    more = f"sed 's|^\\]}}$|,{json.dumps(entry)}]}}|' /etc/envfleet-mirror/selection.json >/root/more"
    on(MIRROR, f"{more}; python3 -m json.tool /root/more /dev/null")
    on(MIRROR, f"systemd-run --quiet --unit=churn --property=Type=exec sh -c {shlex.quote(CHURN)}")
    on(NODE, f"echo {shlex.quote(READER)} >/root/reader.py")
    output_to = "--property=StandardOutput=file:/root/read"
    on(NODE, f"systemd-run --quiet --unit=reader --property=Type=exec {output_to} python3 /root/reader.py")
    site.apply("site")
    assert all(map(works, ENVS))
    on(NODE, "touch /run/enough; timeout 60 sh -c 'while systemctl is-active reader; do sleep 0.2; done'")
    on(MIRROR, "touch /run/enough; timeout 60 sh -c 'while systemctl is-active churn; do sleep 0.2; done'")
    for host, unit in ((NODE, "reader"), (MIRROR, "churn")):
        assert cluster.on_node(f"systemctl is-failed {unit}", node=host, check=False).returncode != 0
    reads, kinds = json.loads(on(NODE, "cat /root/read"))
    assert reads > 10
    assert kinds == 2
    assert site_mirror.update(MIRROR)["state"] == "current"


def test_a_mirror_is_carried_where_no_network_is_and_a_forged_one_is_refused(
    site: site_mirror.Site, tmp_path: Path
) -> None:
    told = cluster.on_node("envfleet-mirror export >/root/mirror.tar", node=MIRROR).stderr
    digest = told.split()[-1]
    podman = Podman(lab_cache())
    podman.run("cp", f"envfleet-{MIRROR}:/root/mirror.tar", str(tmp_path))
    podman.run("cp", str(tmp_path / "mirror.tar"), f"envfleet-{FAR}:/root/mirror.tar")

    empty = site_mirror.served(FAR)
    tail = "open('/root/forged.tar', 'r+b')"
    forge = f"f = {tail}; f.seek(-100000, 2); c = f.read(1)[0]; f.seek(-100000, 2); f.write(bytes([c ^ 1]))"
    on(FAR, f"cp /root/mirror.tar /root/forged.tar; python3 -c {shlex.quote(forge)}")
    refused = cluster.on_node("envfleet-mirror import </root/forged.tar", node=FAR, check=False)
    assert refused.returncode == 3
    assert "The archive is refused, and nothing of it is used" in refused.stdout
    assert site_mirror.served(FAR) == empty
    wrong = cluster.on_node(
        f"envfleet-mirror import --manifest-sha256 {'0' * 64} </root/mirror.tar", node=FAR, check=False
    )
    assert (wrong.returncode, site_mirror.served(FAR)) == (3, empty)

    on(FAR, f"envfleet-mirror import --manifest-sha256 {digest} </root/mirror.tar")
    sums = "cd /srv/envfleet-mirror/www; find lab pypi files -type f ! -name 'repodata*' -exec sha256sum {} + | sort"
    have = on(FAR, sums)
    assert have
    assert set(have.splitlines()) <= set(on(MIRROR, sums).splitlines())
    assert len(re.findall(r"\.conda$", have, re.MULTILINE)) == 8
    # Nothing is asked of any network, and the next run of the timer is content.
    assert site_mirror.update(FAR)["state"] == "current"


def test_an_upstream_that_is_away_leaves_the_last_good_state_and_says_so(site: site_mirror.Site) -> None:
    before = site_mirror.served(MIRROR)
    site_mirror.cut_off(MIRROR)
    more = ["*/conda-lock*.yml", "*/explicit.txt"]
    output = site.apply("mirror", "--diff", "--limit", MIRROR, channel_mirror_locks=more)
    assert re.search(r'^\+ .*"path": "lab/noarch/six-', output, re.MULTILINE)
    told = site_mirror.update(MIRROR)
    assert (told["state"], told["exit_code"]) == ("unreachable", 4)
    assert all(f"{UPSTREAM}:8080 does not answer" in problem for problem in told["problems"])
    assert site_mirror.served(MIRROR) == before
    assert on(MIRROR, "systemctl is-failed envfleet-mirror.service") == "failed"

    site_mirror.cut_off(MIRROR, UPSTREAM)
    told = site_mirror.update(MIRROR)
    assert (told["state"], len(told["fetched"])) == ("current", 1)


def test_absent_removes_everything_but_nginx(site: site_mirror.Site) -> None:
    site.apply("mirror", channel_mirror_state="absent")
    for host in (MIRROR, FAR):
        places = f"{DIRECTORY} /etc/envfleet-mirror /opt/envfleet/mirror* /usr/local/sbin/envfleet-mirror"
        assert on(host, f"ls -d {places} /etc/nginx/conf.d/envfleet* 2>/dev/null", check=False) == ""
        assert on(host, "systemctl list-units --all --plain --no-legend 'envfleet-mirror*'") == ""
        assert cluster.on_node("getent passwd envfleet-mirror", node=host, check=False).returncode == 2
        assert on(host, "systemctl is-active nginx") == "active"
    assert (
        "refused"
        in cluster.on_node(
            "python3 -c 'import socket; socket.create_connection((\"mirror-1\", 443))'", node=NODE, check=False
        ).stderr
    )
    assert re.findall(r"changed=(\d+)", site.apply("mirror", channel_mirror_state="absent")) == ["0", "0"]
