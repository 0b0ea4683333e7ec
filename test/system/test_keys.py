"""msg-api key: keys are made, listed, replaced and revoked; a key is shown once and kept nowhere."""

import hashlib
import json
import os
import pwd
import re
import subprocess
import zlib

import pytest
from harness.stack import binary

KEY = re.compile(r"msg_([a-z0-9]{1,16})_[0-9A-Za-z]{33}_[0-9A-Za-z]{6}")
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
USAGE = 78


def command(stack, *words, **settings):
    return {"args": [binary("api"), "key", *words], "text": True, "env": {**os.environ, **stack.values, **settings}}


def key(stack, *words, **settings):
    """Exit status, stdout, stderr."""
    done = subprocess.run(**command(stack, *words, **settings), capture_output=True, timeout=60)
    print(words, done.returncode, done.stderr)
    return done.returncode, done.stdout, done.stderr


def made(stack, *words, **settings):
    """The new key and its row."""
    code, out, _ = key(stack, *words, **settings)
    assert code == 0 and KEY.fullmatch(out.removesuffix("\n")), out
    return out.strip(), row_of(stack, out.strip())


def row_of(stack, text):
    rows = stack.db.records("SELECT *,TIMESTAMPDIFF(SECOND,NOW(6),expires_at) AS left_sec FROM api_keys WHERE hash=%s",
                            hashlib.sha256(text.encode()).digest())
    assert len(rows) == 1
    return rows[0]


def listed(stack):
    code, out, _ = key(stack, "list", "--json")
    assert code == 0
    return {k["id"]: k for k in json.loads(out)}


def acts(err):
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "admin.key"]


def changes(stack):
    rows = stack.db.rows("SELECT value FROM change_counters WHERE name='api_keys'")
    return rows[0][0] if rows else 0


def count(stack):
    return stack.db.value("SELECT COUNT(*) FROM api_keys")


def given_key(cell="live", number=0):
    """What an installer makes."""
    def base62(value, n):
        text = ""
        for _ in range(n):
            value, digit = divmod(value, 62)
            text = DIGITS[digit] + text
        return text

    body = f"msg_{cell}_{base62(number, 33)}"
    return f"{body}_{base62(zlib.crc32(body.encode()), 6)}"


@pytest.fixture(scope="module")
def stack(module_world):
    """For the verbs alone: with no key but theirs."""
    return module_world("api", API_AUTH="off")


@pytest.fixture
def fresh(world):
    return world("api", API_AUTH="off")


def everything(stack):
    """What is stored and what was logged."""
    texts = [repr(stack.db.rows(f"SELECT * FROM `{t}`")) for t in stack.db.tables()]
    return "\n".join([*texts, *(text for _, text in stack._logs())])


def test_a_key_is_shown_once_and_kept_nowhere(stack):
    before = changes(stack)
    code, out, err = key(stack, "create", "--label", "shop", "--scopes", "send,read", "--customer", "42",
                         "--expires", "90d", "--from", "10.0.0.0/8,2001:db8::/32")
    text = out.removesuffix("\n")
    assert code == 0 and KEY.fullmatch(text)[1] == "live"
    row = row_of(stack, text)
    assert (row["label"], row["scopes"], row["customer_id"], row["networks"]) \
        == ("shop", "send,read", 42, "10.0.0.0/8,2001:db8::/32")
    assert 90 * 86400 - 60 <= row["left_sec"] <= 90 * 86400 and row["revoked_at"] is None
    assert changes(stack) == before + 1
    [act] = acts(err)
    assert act["act"] == "create" and act["key_id"] == row["id"] and act["from"] and "host" in act
    assert act["user"] == pwd.getpwuid(os.geteuid()).pw_name
    secret = text.split("_")[2]
    shown = "".join(key(stack, "list")[1:] + key(stack, "list", "--json")[1:])
    for where in (err, shown, everything(stack)):
        assert secret not in where and text[-6:] not in where


def test_keys_as_they_are_told_to_be(stack):
    _, all_of_them = made(stack, "create", "--label=back office", "--scopes=admin,read")
    assert (all_of_them["customer_id"], all_of_them["networks"], all_of_them["expires_at"]) == (0, "", None)
    text, topup = made(stack, "create", "--label=cash", "--customer=7", "--scopes=topup", API_KEY_CELL="test1")
    assert topup["scopes"] == "topup" and text.startswith("msg_test1_")
    assert made(stack, "create", "--label=x", "--scopes=send")[0] != made(stack, "create", "--label=x",
                                                                          "--scopes=send")[0]


@pytest.mark.parametrize("words", [
    [], ["frob"], ["create"], ["create", "--label=x"], ["create", "--scopes=send"], ["create", "--label=x", "--scopes="],
    ["create", "--label=x", "--scopes=all"], ["create", "--label=x", "--scopes=send,,read"],
    ["create", "--label=x", "--scopes=send,send"], ["create", "--label=", "--scopes=send"],
    ["create", "--label=x\ny", "--scopes=send"], ["create", "--label=" + "x" * 101, "--scopes=send"],
    ["create", "--label=x", "--scopes=admin", "--customer=1"], ["create", "--label=x", "--scopes=send", "--customer=0"],
    ["create", "--label=x", "--scopes=send", "--customer=-1"], ["create", "--label=x", "--scopes=send", "--customer=1x"],
    ["create", "--label=x", "--scopes=send", "--customer", "9" * 30], ["create", "--label=x", "--scopes=send", "--expires=0d"],
    ["create", "--label=x", "--scopes=send", "--expires=soon"], ["create", "--label=x", "--scopes=send", "--from=10.0.0.1/8"],
    ["create", "--label=x", "--scopes=send", "--from="], ["create", "--label=x", "--scopes=send", "--from=10.0.0.0/33"],
    ["create", "--label=x", "--scopes=send", "more"], ["create", "--label=x", "--scopes=send", "--expires"],
    ["list", "--yaml"], ["list", "all"], ["revoke"], ["revoke", "x"], ["revoke", "0"], ["revoke", "1", "2"], ["revoke", "-1"],
    ["rotate"], ["rotate", "1", "--grace"], ["rotate", "1", "--grace=-1"], ["rotate", "1", "2"], ["bootstrap", "now"],
    ["generate", "2"],
], ids=lambda words: " ".join(words)[:50].replace("\n", " ") or "none")
def test_wrong_words_change_nothing(stack, words):
    before = count(stack), changes(stack)
    code, out, err = key(stack, *words)
    assert code == USAGE and out == "" and "usage: msg-api key" in err
    assert (count(stack), changes(stack)) == before


def test_lists(stack):
    _, active = made(stack, "create", "--label=a ½", "--scopes=send,metrics", "--from=192.0.2.1")
    _, expired = made(stack, "create", "--label=b", "--scopes=read", "--customer=9", "--expires=1h")
    _, revoked = made(stack, "create", "--label=c", "--scopes=read")
    _, ending = made(stack, "create", "--label=d", "--scopes=read")
    stack.db.execute("UPDATE api_keys SET expires_at=NOW(6) WHERE id=%s", expired["id"])
    assert key(stack, "revoke", str(revoked["id"]))[0] == 0
    _, new = made(stack, "rotate", str(ending["id"]), "--grace=1h")
    keys = listed(stack)
    assert [keys[r["id"]]["state"] for r in (active, expired, revoked, ending, new)] \
        == ["active", "expired", "revoked", "ending", "active"]
    assert keys[active["id"]] | {"created_at": None} == {
        "id": active["id"], "state": "active", "label": "a ½", "scopes": ["send", "metrics"], "customer_id": None,
        "networks": ["192.0.2.1"], "created_at": None, "expires_at": None, "revoked_at": None, "replaced_by": None}
    assert keys[expired["id"]]["customer_id"] == 9 and keys[expired["id"]]["expires_at"].endswith("Z")
    assert keys[ending["id"]]["replaced_by"] == new["id"]
    code, out, err = key(stack, "list")
    lines = {int(line.split("\t")[0]): line for line in out.splitlines()}
    assert code == 0 and err == "" and set(lines) == set(keys)
    assert lines[active["id"]].split("\t")[1:3] == ["active", "a ½"] and "networks=192.0.2.1" in lines[active["id"]]
    assert "scopes=read customer=9" in lines[expired["id"]]


def test_revoked_is_revoked(stack):
    _, row = made(stack, "create", "--label=x", "--scopes=send")
    before = changes(stack)
    code, out, err = key(stack, "revoke", str(row["id"]))
    assert (code, out) == (0, "") and acts(err)[0]["act"] == "revoke"
    assert changes(stack) == before + 1
    at = stack.db.value("SELECT revoked_at FROM api_keys WHERE id=%s AND revoked_at<=NOW(6)", row["id"])
    assert key(stack, "revoke", str(row["id"]))[0] == 0
    assert stack.db.value("SELECT revoked_at FROM api_keys WHERE id=%s", row["id"]) == at
    before = changes(stack)
    code, _, err = key(stack, "revoke", "999999")
    assert code == 1 and "there is no key 999999" in err and not acts(err)
    assert changes(stack) == before


def test_rotation(stack):
    text, old = made(stack, "create", "--label=x", "--scopes=send,read", "--customer=5", "--expires=10d", "--from=10.0.0.0/8")
    stack.db.execute("UPDATE api_keys SET created_at=created_at-INTERVAL 9 DAY,expires_at=expires_at-INTERVAL 9 DAY "
                     "WHERE id=%s", old["id"])
    new_text, new = made(stack, "rotate", str(old["id"]), "--grace", "1h")
    assert new_text != text
    for name in ("label", "scopes", "customer_id", "networks"):
        assert new[name] == old[name]
    assert 10 * 86400 - 60 <= new["left_sec"] <= 10 * 86400  # as long as the old one was made for
    grace = stack.db.value("SELECT TIMESTAMPDIFF(SECOND,NOW(6),revoked_at) FROM api_keys WHERE id=%s", old["id"])
    assert 3500 < grace <= 3600 and row_of(stack, text)["replaced_by"] == new["id"]
    code, _, err = key(stack, "rotate", str(old["id"]))  # its place is taken
    assert code == 1 and "replaced already" in err
    assert key(stack, "revoke", str(old["id"]))[0] == 0  # which ends the grace
    assert listed(stack)[old["id"]]["state"] == "revoked"
    newest_text, newest = made(stack, "rotate", str(new["id"]))
    assert listed(stack)[new["id"]]["state"] == "revoked" and listed(stack)[newest["id"]]["state"] == "active"
    code, out, err = key(stack, "rotate", "999999")
    assert code == 1 and out == "" and "there is no key" in err
    for secret in (text, new_text, newest_text):
        assert secret.split("_")[2] not in everything(stack)


def test_a_key_that_nobody_would_see_is_not_made(stack):
    before = count(stack)
    words = " ".join(f"'{w}'" for w in (binary("api"), "key", "create", "--label=x", "--scopes=send"))
    done = subprocess.run(["sh", "-c", f"{words} >&-"], env={**os.environ, **stack.values}, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1 and "would be lost" in done.stderr and count(stack) == before
    with open("/dev/full", "w") as full:
        done = subprocess.run(**command(stack, "create", "--label=x", "--scopes=send"), stdout=full,
                              stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1 and "revoke it" in done.stderr and count(stack) == before + 1


# ---- the first key ----


def test_a_generated_key_is_stored_nowhere(stack):
    before = count(stack), changes(stack)
    code, out, err = key(stack, "generate", API_KEY_CELL="test")
    assert code == 0 and err == "" and KEY.fullmatch(out.strip())[1] == "test"
    assert (count(stack), changes(stack)) == before


def test_bootstrap_makes_one_key_once(fresh):
    text, row = made(fresh, "bootstrap")
    assert row["scopes"] == "send,read,topup,admin,metrics,webhooks" and row["customer_id"] == 0
    before = changes(fresh)
    for _ in range(2):
        code, out, err = key(fresh, "bootstrap")
        assert (code, out) == (0, "") and "nothing was done" in err and not acts(err)
    # Not even when that one is gone: who has taken it away has had a reason.
    assert key(fresh, "revoke", str(row["id"]))[0] == 0
    assert key(fresh, "bootstrap")[1] == ""
    assert count(fresh) == 1 and changes(fresh) == before + 1
    assert text.split("_")[2] not in everything(fresh)


def test_an_admin_key_that_was_made_by_hand_is_the_first(fresh):
    made(fresh, "create", "--label=mine", "--scopes=admin")
    code, out, err = key(fresh, "bootstrap")
    assert (code, out) == (0, "") and "nothing was done" in err and count(fresh) == 1


def test_of_racing_bootstraps_one_makes_a_key(fresh):
    racing = [subprocess.Popen(**command(fresh, "bootstrap"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
              for _ in range(8)]
    outputs = [p.communicate(timeout=120) for p in racing]
    print(outputs)
    assert [p.returncode for p in racing] == [0] * 8
    [text] = [out.strip() for out, _ in outputs if out]
    assert row_of(fresh, text) and count(fresh) == 1
    assert sum(len(acts(err)) for _, err in outputs) == 1


def test_bootstrap_takes_the_key_of_an_installer(fresh, tmp_path):
    text, file = key(fresh, "generate")[1].strip(), tmp_path / "admin_key"
    file.write_text(text + "\n")
    code, out, err = key(fresh, "bootstrap", API_ADMIN_KEY_FILE=str(file))
    assert (code, out) == (0, "") and "is the first admin key" in err and acts(err)[0]["act"] == "bootstrap"
    assert row_of(fresh, text)["scopes"].count("admin") == 1
    code, out, err = key(fresh, "bootstrap", API_ADMIN_KEY_FILE=str(file))
    assert (code, out) == (0, "") and "already: nothing was done" in err and not acts(err)
    file.write_text(given_key(number=99) + "\n")
    code, out, err = key(fresh, "bootstrap", API_ADMIN_KEY_FILE=str(file))
    assert (code, out) == (0, "") and "none that is known" in err
    assert count(fresh) == 1 and text.split("_")[2] not in everything(fresh) + err


@pytest.mark.parametrize("wrong", ["tiny", given_key(number=5)[:-1] + "!", given_key(number=5).replace("live", "lime"),
                                   given_key(number=5) + " "], ids=["tiny", "checksum", "cell", "blank"])
def test_a_given_key_has_the_shape_of_one(stack, tmp_path, wrong):
    (tmp_path / "key").write_text(wrong)
    before = count(stack)
    code, out, err = key(stack, "bootstrap", API_ADMIN_KEY_FILE=str(tmp_path / "key"))
    assert code == USAGE and out == "" and "API_ADMIN_KEY" in err and wrong not in err and count(stack) == before
    assert key(stack, "list", API_KEY_CELL="Not-A-Cell")[0] == USAGE


def test_without_the_tables_it_says_what_to_do(world):
    stack = world("operators")
    code, out, err = key(stack, "create", "--label=x", "--scopes=send")
    assert code == 1 and out == "" and "msg-api migrate comes first" in err


def test_the_migration_may_be_cut_off_and_repeated(fresh):
    text, row = made(fresh, "create", "--label=x", "--scopes=send")
    fresh.db.execute("UPDATE schema_migrations SET finished_at=NULL WHERE version=15")
    fresh.db.execute("DROP TABLE change_counters")
    done = subprocess.run([binary("api"), "migrate"], env={**os.environ, **fresh.values}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert row_of(fresh, text)["id"] == row["id"] and fresh.db.value("SELECT COUNT(*) FROM change_counters") == 0
    assert key(fresh, "revoke", str(row["id"]))[0] == 0 and changes(fresh) == 1


def test_a_label_that_somebody_else_has_written_steers_no_terminal(stack):
    stack.db.execute("INSERT INTO api_keys(hash,label,scopes,networks) VALUES (REPEAT('x',32),%s,'send,later',%s)",
                     "a\x1b[31mb\x9b", "\x1b[2J")
    code, out, _ = key(stack, "list")
    assert code == 0 and "\x1b" not in out and "\x9b" not in out and "\\x1b[31mb" in out
    assert "a\x1b[31mb\x9b" in {k["label"] for k in listed(stack).values()}
