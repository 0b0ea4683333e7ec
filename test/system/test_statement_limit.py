"""The server stops working for whoever has given up waiting."""

from harness.wait import wait_until

# Minutes of work in which a server does not look whether its client is still there.
ENDLESS = "CREATE TRIGGER endless BEFORE UPDATE ON workers FOR EACH ROW SET @x=BENCHMARK(1e12,SHA2('x',256))"


def test_a_statement_that_nobody_waits_for_is_ended(world):
    stack = world("operators", "consumerd", "api", DB_STATEMENT_TIMEOUT_MS=2000)

    def heartbeats():
        return {row[0] for row in stack.db.rows(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE DB=%s AND COMMAND='Query' AND ID<>CONNECTION_ID() AND "
            # MySQL shows the trigger's statement.
            "(INFO LIKE 'UPDATE workers%%' OR INFO LIKE '%%BENCHMARK(%%')", stack.values["DB_NAME"])}

    stack.db.execute(ENDLESS)
    try:
        first = wait_until(heartbeats, 30, "a heartbeat is at work")
        wait_until(lambda: not first & heartbeats(), 30, "the server has given up too")
    finally:
        stack.stop("consumerd")
        for number in heartbeats():
            stack.db.execute(f"KILL {number}")
        stack.db.execute("DROP TRIGGER endless")
