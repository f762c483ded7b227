# odbc.py: psqlODBC, by way of pyodbc, whose rowcount is what SQLRowCount gives.
import os
import pyodbc

pyodbc.pooling = False
events = ["alice", "bob", "carol", "dave"]
INSERT = "INSERT INTO event (user_id) VALUES (?)"


def show(*columns):
    print("odbc", *columns, sep=" | ")


def connect(user, more=""):
    return pyodbc.connect(
        "Driver={{PostgreSQL Unicode}};Servername={PGHOST};Port={PGPORT};Database={PGDATABASE};".format(**os.environ)
        + f"Uid={user};{more}",
        autocommit=True,
    )


def writers(db):
    cur = db.cursor()

    def tell(way, reported):
        show(way, len(events), reported, *db.execute("SELECT * FROM tally()").fetchone())

    counts = [cur.execute(INSERT, user).rowcount for user in events]
    tell("execute one by one", f"SQLRowCount {' '.join(map(str, counts))}")

    cur.execute("INSERT INTO event (user_id) VALUES (?), (?), (?), (?)", events)
    tell("execute several", f"SQLRowCount {cur.rowcount}")

    cur.executemany(INSERT, [[user] for user in events])
    tell("executemany", f"rowcount {cur.rowcount}")

    cur.fast_executemany = True
    cur.executemany(INSERT, [[user] for user in events])
    tell("executemany, array of parameters", f"rowcount {cur.rowcount}")

    found = [cur.execute(INSERT + " RETURNING user_id", user).fetchone() for user in events]
    tell("execute one by one, RETURNING", f"fetchone {' '.join(row[0] if row else 'None' for row in found)}")


def readers(db):
    cur = db.cursor()
    for view in ["user_list", "opt_out_list", "opt_out_history", "discards", "guarded", "status"]:
        table = cur.tables(schema="optout", table=view).fetchone()
        column = {column.column_name: column for column in cur.columns(schema="optout", table=view)}
        remarks = [table.remarks] + [c.remarks for c in column.values()]
        rows = cur.execute(f"SELECT * FROM optout.{view}").fetchall()
        columns, nullable = [], 0
        for i, (name, _, _, _, _, _, null_ok) in enumerate(cur.description):
            value = next((row[i] for row in rows if row[i] is not None), None)
            columns.append(f"{name} {column[name].type_name} {type(value).__name__}")
            nullable += null_ok and column[name].nullable != pyodbc.SQL_NO_NULLS
        of = f"{len(rows)} rows"
        if cur.description[0][0] == "organization":
            of = "of " + " ".join(sorted({row[0] for row in rows}))
        show(
            view, table.table_type, f"comments {sum(map(bool, remarks))} of {len(columns) + 1}",
            f"nullable {nullable} of {len(columns)}", of, ", ".join(columns),
        )


def booleans():
    values = [
        connect("acme_reader", way).execute("SELECT opted_out FROM optout.user_list WHERE user_id = 'bob'").fetchone()[0]
        for way in ["", "BoolsAsChar=0"]
    ]
    show("opted_out is", repr(values[0]), f"with BoolsAsChar=0 {values[1]!r}")


def time(db):
    rows = db.execute("SELECT opted_out_at, opted_out_at::timestamp FROM optout.opt_out_list").fetchall()
    same = all(at == local for at, local in rows)
    show("time", "local time of the session's TimeZone" if same else "something else")


# The same connection, and the same prepared statement of it, under several roles.
def roles(db):
    users = db.cursor()
    other = db.cursor()
    seen = []
    for role in ["SET ROLE acme_reader", "SET ROLE globex_reader", "RESET ROLE", "SET ROLE acme_reader"]:
        other.execute(role)
        answers = set()
        for _ in range(7):
            rows = users.execute("SELECT user_id FROM optout.user_list WHERE user_id <> ? ORDER BY user_id", "nobody").fetchall()
            answers.add(" ".join(row[0] for row in rows))
        seen.append(f"{role}: {' or '.join(sorted(answers)) or 'none'}")
    generic = other.execute(
        "SELECT bool_or(generic_plans > 0) FROM pg_prepared_statements WHERE statement LIKE '%user_list%'"
    ).fetchone()[0]
    show("pooled, prepared", *seen, f"generic plan {str(generic).lower()}")


writers(connect("writer"))
readers(connect("acme_reader", "BoolsAsChar=0"))
booleans()
time(connect("acme_reader"))
roles(connect("app", "UseServerSidePrepare=1;BoolsAsChar=0"))
