# orm_peewee.py: peewee gives each object of bulk_create() the key of the row that
# RETURNING has in the same place.  What is told: whose row has that key.
import os

from peewee import BigAutoField, Model, PostgresqlDatabase, TextField

events = ["alice", "bob", "carol", "dave"]
db = PostgresqlDatabase(
    os.environ["PGDATABASE"],
    user="writer",
    host=os.environ["PGHOST"],
    port=int(os.environ["PGPORT"]),
    password=os.environ["PGPASSWORD"],
)


def write(table):
    class Event(Model):
        id = BigAutoField()
        user_id = TextField()

        class Meta:
            database = db
            table_name = table

    objects = [Event(user_id=user) for user in events]
    Event.bulk_create(objects)
    owner = dict(db.execute_sql("SELECT id, user_id FROM event").fetchall())
    keys = ", ".join(
        f"{o.user_id} {'without key' if o.id is None else owner.get(o.id, 'nobody')}"
        for o in objects
    )
    tally = db.execute_sql("SELECT * FROM tally()").fetchone()
    print("peewee", f"bulk_create, {table}", len(events), f"keys of: {keys}", *tally, sep=" | ")


for name in ["event", "event_in"]:
    write(name)
