# orm_sqlalchemy.py: SQLAlchemy, with keys that the database makes, that the
# application makes, and through a view that lets every event count as inserted.
import os
import uuid

from sqlalchemy import BigInteger, Column, Text, create_engine, insert, text
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import Session, declarative_base

events = ["alice", "bob", "carol", "dave"]
engine = create_engine("postgresql+psycopg2://writer@/{PGDATABASE}?host={PGHOST}&port={PGPORT}".format(**os.environ))
Base = declarative_base()


class Event(Base):
    __tablename__ = "event"
    id = Column(BigInteger, primary_key=True)
    user_id = Column(Text)


class EventIn(Base):
    __tablename__ = "event_in"
    id = Column(BigInteger, primary_key=True)
    user_id = Column(Text)


class Keyed(Base):
    __tablename__ = "keyed"
    id = Column(UUID(as_uuid=True), primary_key=True, default=uuid.uuid4)
    user_id = Column(Text)


def tell(way, reported):
    with engine.begin() as db:
        print("sqlalchemy", way, len(events), reported, *db.execute(text("SELECT * FROM tally()")).one(), sep=" | ")


def add_all(model):
    try:
        with Session(engine, expire_on_commit=False) as session:
            objects = [model(user_id=user) for user in events]
            session.add_all(objects)
            session.commit()
            return ", ".join("key" if event.id else "no key" for event in objects)
    except Exception as error:
        return type(error).__name__


for model, way in [(Event, ""), (Keyed, ", own keys"), (EventIn, ", view")]:
    tell("Session.add_all" + way, add_all(model))
with engine.begin() as db:
    result = db.execute(insert(Event.__table__), [{"user_id": user} for user in events])
tell("insert() of Core", f"rowcount {result.rowcount}")
