"""How the database runs the statements that the daemons really send, on empty and on large tables: a
statement that takes locks must find its rows by an index in both, and nothing on a large table may
read more than a bounded number of rows. The statements are taken from the server's general log.
"""

import getpass
import os
import re
import subprocess
import uuid

import pymysql
import pytest
from harness.audit import quiesce
from harness.client import recipient
from harness.stack import binary
from harness.wait import wait_until
from harness.witness import MARK, numbers

LARGE = 60_000
MOST_ROWS = 5_000
SCAN_ROWS = 2_000  # READ_SCAN_ROWS
HOT = {"user_balances", "user_transactions", "messages", "message_status", "outbox_events",
       "outbox_parked", "idempotency_keys"}
ENTRY = re.compile(r"^(?:\d{6} [ \d]\d:\d\d:\d\d|\d{4}-\d\d-\d\dT[\d:.]+Z)?\s*(\d+) (Query|Connect|Execute|Quit|Init DB|Prepare|"
                   r"Close stmt|Ping|Statistics|Change user|Reset connection)\t(.*)$")
EXPLAINED = re.compile(r"^\s*\(*\s*(SELECT|UPDATE|DELETE|WITH)\b", re.IGNORECASE)
RANGE_ROWS = 10_000  # of a statement of the repair
RANGE = re.compile(rf"(id>\d+)(.* ORDER BY id LIMIT {RANGE_ROWS}\))")
BLOCK = re.compile(r"^(BEGIN NOT ATOMIC|IF ROW_COUNT\(\)=\d+ THEN|ELSE) ")
LOCKING = re.compile(r"^\s*(UPDATE|DELETE)\b|\bFOR UPDATE\b|\bLOCK IN SHARE MODE\b", re.IGNORECASE)


def as_root(servers, sql):
    subprocess.run(["mariadb", "--no-defaults", "--socket=mysql.sock", f"--user={getpass.getuser()}",
                    f"--execute={sql}"], check=True, timeout=30,
                   cwd=os.path.join(servers.state, "mariadb", "data"))


def statements(log, database):
    """The statements of all connections to this database but the tests' own."""
    connections, entries = set(), []
    for line in log.splitlines():
        match = ENTRY.match(line)
        if match:
            number, kind, text = int(match[1]), match[2], match[3]
            if kind == "Connect" and f" on {database} " in text + " ":
                connections.add(number)
            if MARK in text:
                connections.discard(number)
            entries.append([number, kind, text])
        elif entries:
            entries[-1][2] += "\n" + line
    return [sql for number, kind, text in entries if kind in ("Query", "Execute") and number in connections
            for part in split(text) for sql in [BLOCK.sub("", part)]]


def split(text):
    """The statements of one packet; a semicolon in quotes ends none."""
    parts = re.findall(r"(?:[^;'\"`]|'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`)+", text)
    return [p.strip() for p in parts if p.strip()]


def shape(sql):
    text = re.sub(r"'(?:[^'\\]|\\.|'')*'", "?", sql)
    text = re.sub(r"\b0x[0-9A-Fa-f]+\b|\b\d+\b", "?", text)
    text = re.sub(r"( WHEN \? THEN \?)+", " WHEN ? THEN ?…", text)
    return re.sub(r"\?(\s*,\s*\?)+", "?,…", text)


@pytest.fixture(scope="module")
def seen(module_world, servers):
    """A platform that has done a bit of everything, and one example of each shape of statement."""
    log = os.path.join(servers.directory, "general.log")
    # The repair's turns are so close that one falls into the traffic.
    stack = module_world("operators", DELIVERY_RETRY_WINDOW_SEC=2, DELIVERY_RETRY_BASE_MS=100, REPAIR_INTERVAL_MS=200)
    # From the first connection on: the log tells only then which database it uses.
    as_root(servers, f"SET GLOBAL general_log_file='{log}'; SET GLOBAL log_output='FILE';"
                     "SET GLOBAL general_log=ON")
    try:
        stack.up()
        traffic(stack)
    finally:
        as_root(servers, "SET GLOBAL general_log=OFF")
    with open(log, errors="replace") as f:
        found = {}
        for sql in statements(f.read(), stack.values["DB_NAME"]):
            # The longest IN list is the one whose plan is in doubt.
            if EXPLAINED.match(sql) and len(sql) >= len(found.get(shape(sql), "")):
                found[shape(sql)] = sql
    for name in ("api-1", "outboxd-1", "consumerd-1"):
        stack.stop(name)
    return stack, [sql for sql in found.values() if any(t in sql for t in HOT)]


def traffic(stack):
    api = stack.api()
    customers = stack.db.seed_customers(30, 1000)
    for operator in stack.operators:
        operator.faults(reject_prefix="0999")
    key = uuid.uuid4().hex
    for n, customer in enumerate(customers):
        api.sent(customer, [recipient(i) for i in range(20)] + ["0999"], key=key,
                 type="express" if n % 2 else "normal")
    api.send(customers[0], key=key)
    api.top_up(customers[0], 5, key=key)
    api.top_up(customers[1], 5)
    api.get("/balance", user_id=customers[0])
    api.get("/messages/history", user_id=customers[0])
    api.get("/messages/history", user_id=customers[0], status="failed", limit=5)
    api.get("/messages/history", user_id=customers[0], message_identifier=str(uuid.uuid4()))
    for operator in stack.operators:
        operator.faults(status=503, status_share=1)
    identifier = api.sent(customers[2])["message_identifier"]
    wait_until(lambda: stack.db.value("SELECT enqueues FROM messages WHERE message_identifier=%s",
                                      identifier), 15, "a retry")
    # As if its consumer had died: the claim that comes is no plain one.
    stack.db.execute("UPDATE message_status SET status='sending',owner=987654321 "
                     "WHERE message_identifier=%s AND status='pending'", identifier)
    for operator in stack.operators:
        operator.heal()
    quiesce(stack)
    refund_many(stack)


def refund_many(stack):
    """So many customers in one transaction that their balances are joined to a list."""
    customers = stack.db.seed_customers(40, 10, first=1001)
    restore_mode(stack, "on")
    for customer in customers:
        stack.api().sent(customer)
    restore_mode(stack, "fail", "--older-than=0")
    restore_mode(stack, "resume")
    quiesce(stack)


def restore_mode(stack, *words):
    subprocess.run([binary("api"), "restore-mode", *words], check=True, timeout=60,
                   env={**os.environ, **stack.values})


def explain(stack, sql):
    with stack.db.connect(cursorclass=pymysql.cursors.DictCursor) as connection, \
            connection.cursor() as cursor:
        cursor.execute("EXPLAIN FORMAT=TRADITIONAL " + sql)
        return cursor.fetchall()


def rows_read(stack, sql):
    """By the storage engines; those of the derived table are among them."""
    with stack.db.connect() as connection, connection.cursor() as cursor:
        def so_far():
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(value) for _, value in cursor.fetchall())

        before = so_far()
        cursor.execute(sql)
        return so_far() - before


def table_steps(plan):
    """Steps that touch a stored table (derived tables and JSON lists are not)."""
    for step in plan:
        name = step["table"] or ""
        if name and not name.startswith("<") and "Table function" not in (step["Extra"] or ""):
            yield step


def fill(stack, rows=LARGE):
    empty(stack)
    if not rows:
        return
    for sql in (
            "INSERT INTO user_balances(user_id,balance) SELECT 1000000+seq,100 FROM {n}",
            "INSERT INTO user_transactions(user_id,amount,transaction_type,transaction_id)"
            " SELECT 1000000+seq,100,'deposit',CONCAT('d-fill-',seq) FROM {n}",
            "INSERT INTO messages(message_identifier,customer_id,type,text,recipients,price)"
            " SELECT CONCAT('fill-',LPAD(seq,9,'0')),1000000+seq,'normal','hi',1,1 FROM {n}",
            "INSERT INTO message_status(user_id,status,type,recipient,message_identifier,price)"
            " SELECT 1000000+seq,IF(seq%3,'done','pending'),'normal','0912',"
            "CONCAT('fill-',LPAD(seq,9,'0')),1 FROM {n}",
            "INSERT INTO outbox_events(aggregate_type,aggregate_id,event_type,payload,priority,"
            "next_run_at) SELECT 'message',CONCAT('fill-',LPAD(seq,9,'0')),'message.send','{{}}',"
            "IF(seq%5,0,10),IF(seq%7,NULL,NOW(6)+INTERVAL seq SECOND) FROM {n}",
            "INSERT INTO idempotency_keys(customer_id,route,idem_key,body_hash,response)"
            " SELECT 1000000+seq,1,CONCAT('fill-',seq),'','{{}}' FROM {n}"):
        stack.db.execute(sql.format(n=numbers(rows)))
    for table in HOT:
        stack.db.rows(f"ANALYZE TABLE {table}")


def empty(stack):
    for table in HOT:
        stack.db.execute(f"DELETE FROM {table}")
        stack.db.rows(f"ANALYZE TABLE {table}")


def test_the_statements_that_matter_were_seen(seen):
    """Otherwise the tests below would pass by looking at nothing."""
    texts = [re.sub(r"\s+", " ", sql) for sql in seen[1]]

    def found(pattern):
        return [t for t in texts if re.search(pattern, t, re.IGNORECASE)]

    assert found(r"FROM outbox_events.*FOR UPDATE SKIP LOCKED"), "the outbox poll"
    assert found(r"^DELETE.*outbox_events"), "its delete"
    assert found(r"FROM user_balances.*FOR UPDATE"), "the balance locks"
    assert found(r"FROM message_status.*FOR UPDATE"), "the claim and the settle"
    assert found(r"^UPDATE message_status.*owner=IF\(status"), "the claim of what is free"
    assert found(r"^UPDATE message_status.*status=.done"), "what is settled"
    assert found(r"^UPDATE message_status.*attempt=attempt\+1.*WHERE id IN"), "the claim of what is not"
    if seen[0].db.is_mariadb:  # in the block that it alone takes
        assert found(r"^UPDATE user_balances .*AND balance>=.* ORDER BY user_id"), "the charges"
    assert found(r"^UPDATE user_balances .*balance=balance\+"), "a few balances"
    assert found(r"^UPDATE .*JOIN user_balances"), "many balances"
    assert found(r"kind=2 .*unknown_operators<>''"), "the look at what is held"
    assert found(r"^SELECT .*COUNT\(DISTINCT .*message_status FORCE INDEX\(PRIMARY\)"), "the count of what is published"
    assert found(r"^SELECT .*priority>=5.*outbox_events FORCE INDEX\(PRIMARY\)"), "what waits in the outbox"
    assert found(r"^SELECT .*priority>=5.*outbox_parked FORCE INDEX\(PRIMARY\)"), "what is parked"


@pytest.mark.parametrize("rows", [0, 5, LARGE], ids=["empty", "few", "large"])
def test_locking_statements_use_an_index(seen, rows):
    stack, found = seen
    fill(stack, rows)
    faults = []
    for sql in found:
        if not LOCKING.search(sql):
            continue
        for step in table_steps(explain(stack, sql)):
            # Where its statistics say that there is nothing, MySQL walks the index that it has to use; who finds out
            # what is due locks nothing with that.
            if not rows and not stack.db.is_mariadb and (step["type"], step["key"]) == ("index", "idx_outbox_poll"):
                continue
            if step["type"] in ("ALL", "index"):
                faults.append(f"{step['type']} on {step['table']}, key {step['key']}: {sql[:200]} … {sql[-300:]}")
    empty(stack)
    assert not faults, "\n".join(faults)


def test_nothing_walks_a_large_table(seen):
    stack, found = seen
    fill(stack)
    faults = []
    for sql in found:
        bounded = re.search(r"\bLIMIT (\d+)\s*\)", sql)  # a count over a limited subquery
        for step in table_steps(explain(stack, sql)):
            rows = int(step["rows"] or 0)
            if rows > MOST_ROWS and not bounded and "LIMIT" not in sql:
                faults.append(f"{rows} rows of {step['table']} by {step['key']}: {sql[:200]} … {sql[-300:]}")
            if step["type"] == "ALL" and rows > MOST_ROWS:
                faults.append(f"a scan of {step['table']}: {sql[:200]} … {sql[-300:]}")
            if "filesort" in (step["Extra"] or "") and rows > MOST_ROWS:
                faults.append(f"sorts {rows} rows of {step['table']}: {sql[:200]} … {sql[-300:]}")
    empty(stack)
    assert not faults, "\n".join(faults)


def test_a_page_of_history_reads_no_more_than_its_window(seen):
    """One customer with a long history: whatever is asked for, near its beginning or deep inside."""
    stack, found = seen
    fill(stack)
    stack.db.execute("UPDATE message_status SET user_id=1000001")
    stack.db.rows("ANALYZE TABLE message_status")
    newest = stack.db.value("SELECT MAX(id) FROM message_status")
    reads = [sql for sql in found if re.search(r"FROM message_status .*ORDER BY id DESC LIMIT", sql)]
    pages = [sql for sql in reads if "message_identifier=" not in sql]
    assert len(pages) == 3 and len(reads) == 4, reads  # a page; a search's bottom and its page; a message's
    for sql in pages:
        for before in (2**63 - 1, newest - LARGE // 2, newest - LARGE + SCAN_ROWS):
            at = re.sub(r"user_id=\d+", "user_id=1000001", sql)
            at = re.sub(r"id<\d+", f"id<{before}", at)
            # A state that nobody is in: the search goes down to its bottom.
            at = re.sub(r" AND status='\w+'", f" AND id>={min(before, newest) - SCAN_ROWS} AND status='failed'", at)
            for step in table_steps(explain(stack, at)):
                if step["table"] == "d":  # what an operator said of a row that is shown; nobody has said anything here
                    assert int(step["rows"] or 0) <= 1, at
                    continue
                assert step["key"] == "idx_message_status_user", at
                assert "filesort" not in (step["Extra"] or ""), at
            assert rows_read(stack, at) <= SCAN_ROWS + 200, at
    empty(stack)


@pytest.mark.parametrize("rows", [0, LARGE], ids=["empty", "large"])
def test_the_repair_counts_in_ranges_of_the_primary_key(seen, rows):
    """Rows that the server has read, whatever it had planned: a statement's range and no more."""
    stack, found = seen
    fill(stack, rows)
    counts = [sql for sql in found if RANGE.search(sql) and sql.startswith("SELECT COUNT(*)")]
    assert {table for sql in counts for table in HOT if table in sql} == {"message_status", "outbox_events",
                                                                          "outbox_parked"}
    for sql in counts:
        for step in table_steps(explain(stack, sql)):
            assert (step["key"], step["type"]) == ("PRIMARY", "range"), sql
        assert rows_read(stack, RANGE.sub(r"id>0\2", sql)) <= 2 * RANGE_ROWS + 100, sql
    empty(stack)
