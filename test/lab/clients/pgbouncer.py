# pgbouncer.py: PgBouncer in transaction mode with one server connection a user,
# so that each transaction meets what the one before left there.
import psycopg

events = ["alice", "bob", "carol", "dave"]


def show(*columns):
    print("pgbouncer", *columns, sep=" | ")


# prepared statements of the protocol do not go through every PgBouncer
def connect(user):
    return psycopg.connect(user=user, autocommit=True, prepare_threshold=None)


def writers():
    def tell(way, reported):
        show(way, len(events), reported, *writer.execute("SELECT * FROM tally()").fetchone())

    def copy(db, sql):
        cur = db.cursor()
        with cur.copy(sql) as copy:
            for user in events:
                copy.write_row([user])
        return f"rowcount {cur.rowcount}"

    guard = "COPY event (user_id) FROM STDIN"
    where = "COPY unguarded (user_id) FROM STDIN WHERE optout.accepts(user_id)"
    writer, other, acme_writer = connect("writer"), connect("writer"), connect("acme_writer")

    tell("COPY, guard", copy(writer, guard))
    tell("COPY, WHERE", copy(writer, where))
    with writer.transaction():
        writer.execute("SET LOCAL optout.organization = 'acme'")
        reported = copy(writer, where)
    tell("SET LOCAL organization, COPY, WHERE", reported)
    tell("COPY, WHERE after it", copy(writer, where))
    tell("setting of the role, COPY, WHERE", copy(acme_writer, where))
    tell("setting of the role, COPY, guard", copy(acme_writer, guard))

    # set by one client, it is in force for the next one
    writer.execute("SET optout.organization = 'acme'")
    tell("another client after SET, COPY, guard", copy(other, guard))
    other.execute("RESET optout.organization")
    tell("the client that SET, after RESET of the other", copy(writer, guard))


def readers():
    db, other = connect("app"), connect("app")
    db.execute("PREPARE users (text) AS SELECT user_id FROM optout.user_list WHERE user_id <> $1 ORDER BY user_id")
    seen = []
    for client, role in [(db, "acme_reader"), (other, "globex_reader"), (db, "none"), (other, "acme_reader")]:
        answers = set()
        for _ in range(7):
            with client.transaction():
                client.execute(f"SET LOCAL ROLE {role}")
                answers.add(" ".join(row[0] for row in client.execute("EXECUTE users ('nobody')")))
        seen.append(f"SET LOCAL ROLE {role}: {' or '.join(sorted(answers)) or 'none'}")
    generic = db.execute("SELECT generic_plans > 0 FROM pg_prepared_statements WHERE name = 'users'").fetchone()[0]
    show("prepared", *seen, f"generic plan {str(generic).lower()}")
    show("after them", "current_user " + db.execute("SELECT current_user").fetchone()[0])


writers()
readers()
