# orm_django.py: Django, with keys that the database makes, that the application
# makes, and through a view that lets every event count as inserted.
import os
import uuid

import django
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
            "USER": "writer",
        }
    },
    USE_TZ=True,
)
django.setup()

from django.db import connection, models  # noqa: E402

events = ["alice", "bob", "carol", "dave"]


class Event(models.Model):
    id = models.BigAutoField(primary_key=True)
    user_id = models.TextField()

    class Meta:
        app_label = "clients"
        db_table = "event"


class EventIn(models.Model):
    id = models.BigAutoField(primary_key=True)
    user_id = models.TextField()

    class Meta:
        app_label = "clients"
        db_table = "event_in"


class Keyed(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user_id = models.TextField()

    class Meta:
        app_label = "clients"
        db_table = "keyed"


def tell(way, reported):
    with connection.cursor() as cur:
        cur.execute("SELECT * FROM tally()")
        print("django", way, len(events), reported, *cur.fetchone(), sep=" | ")


def attempt(what):
    try:
        return what()
    except Exception as error:
        return type(error).__name__


def save(model, user):
    event = model(user_id=user)
    event.save()
    return "key" if event.pk else "no key"


def bulk_create(model, **options):
    made = model.objects.bulk_create([model(user_id=user) for user in events], **options)
    return ", ".join("key" if event.pk else "no key" for event in made)


for model, way in [(Event, ""), (Keyed, ", own keys"), (EventIn, ", view")]:
    tell("save" + way, ", ".join(attempt(lambda: save(model, user)) for user in events))
    tell("bulk_create" + way, attempt(lambda: bulk_create(model)))
tell("bulk_create, ignore_conflicts", attempt(lambda: bulk_create(Event, ignore_conflicts=True)))
