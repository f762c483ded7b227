# psycopg3.py: psycopg 3.
import psycopg

events = ["alice", "bob", "carol", "dave"]
INSERT = "INSERT INTO event (user_id) VALUES (%s)"


def show(*columns):
    print("psycopg", *columns, sep=" | ")


def connect(user):
    return psycopg.connect(user=user, autocommit=True)


def writers(db):
    cur = db.cursor()

    def tell(way, reported):
        show(way, len(events), reported, *db.execute("SELECT * FROM tally()").fetchone())

    for way, sql in [
        ("COPY, guard", "COPY event (user_id) FROM STDIN"),
        ("COPY, WHERE", "COPY unguarded (user_id) FROM STDIN WHERE optout.accepts(user_id)"),
    ]:
        with cur.copy(sql) as copy:
            for user in events:
                copy.write_row([user])
        tell(way, f"rowcount {cur.rowcount}")

    counts = [cur.execute(INSERT, [user]).rowcount for user in events]
    tell("execute one by one", f"rowcount {' '.join(map(str, counts))}")

    cur.executemany(INSERT, [[user] for user in events])
    tell("executemany", f"rowcount {cur.rowcount}")

    cur.executemany(INSERT + " RETURNING user_id", [[user] for user in events], returning=True)
    total, results = cur.rowcount, []
    while True:
        row = cur.fetchone()
        results.append(row[0] if row else str(row))
        if not cur.nextset():
            break
    tell("executemany, returning", f"fetchone {' '.join(results)}")

    with db.pipeline():
        for user in events:
            cur.execute(INSERT, [user])
    tell("execute in a pipeline", "no error")


def readers(db):
    for view in ["user_list", "opt_out_list", "opt_out_history", "discards", "guarded", "status"]:
        cur = db.execute(f"SELECT * FROM optout.{view}")
        rows = cur.fetchall()
        columns = []
        for i, column in enumerate(cur.description):
            value = next((row[i] for row in rows if row[i] is not None), None)
            columns.append(f"{column.name} {db.adapters.types[column.type_code].name} {type(value).__name__}")
        of = f"{len(rows)} rows"
        if cur.description[0].name == "organization":
            of = "of " + " ".join(sorted({row[0] for row in rows}))
        show(view, of, ", ".join(columns))
    rows = db.execute("SELECT opted_out_at, extract(epoch FROM opted_out_at)::float8 FROM optout.opt_out_list").fetchall()
    same = all(at.timestamp() == epoch for at, epoch in rows)
    show("time", "the same instant" if same else "another instant")


# The same connection, and the same prepared statement of it, under several roles.
def roles(db):
    db.prepare_threshold = 0
    seen = []
    for role in ["SET ROLE acme_reader", "SET ROLE globex_reader", "RESET ROLE", "SET ROLE acme_reader"]:
        db.execute(role)
        answers = set()
        for _ in range(7):
            rows = db.execute("SELECT user_id FROM optout.user_list WHERE user_id <> %s ORDER BY user_id", ["nobody"])
            answers.add(" ".join(row[0] for row in rows))
        seen.append(f"{role}: {' or '.join(sorted(answers)) or 'none'}")
    generic = db.execute(
        "SELECT generic_plans > 0 FROM pg_prepared_statements WHERE statement LIKE '%user_list%$1%' AND statement NOT LIKE '%generic%'"
    ).fetchone()[0]
    show("pooled, prepared", *seen, f"generic plan {str(generic).lower()}")


writers(connect("writer"))
readers(connect("acme_reader"))
roles(connect("app"))
