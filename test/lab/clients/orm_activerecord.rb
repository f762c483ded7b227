# orm_activerecord.rb: ActiveRecord of Rails, with keys that the database makes, that
# the application makes, and through a view that lets every event count as inserted.
require "active_record"
require "securerandom"

EVENTS = %w[alice bob carol dave]
ActiveRecord::Base.establish_connection(adapter: "postgresql", username: "writer", host: ENV["PGHOST"], port: ENV["PGPORT"],
                                        database: ENV["PGDATABASE"], password: ENV["PGPASSWORD"])

class Event < ActiveRecord::Base
  self.table_name = "event"
end

class EventIn < ActiveRecord::Base
  self.table_name = "event_in"
  self.primary_key = "id"
end

class Keyed < ActiveRecord::Base
  self.table_name = "keyed"
  before_create { self.id = SecureRandom.uuid }
end

def tell(way, reported, offered = EVENTS.size)
  tally = ActiveRecord::Base.connection.exec_query("SELECT * FROM tally()").first
  puts ["activerecord", way, offered, reported, *tally.values].join(" | ")
end

[[Event, ""], [Keyed, ", own keys"], [EventIn, ", view"]].each do |model, way|
  made = EVENTS.map { |user| model.create!(user_id: user) }
  tell("create!#{way}", made.map { |event| "#{event.id ? 'key' : 'no key'}#{' persisted' if event.persisted?}" }.join(", "))
end
event = Event.create!(user_id: EVENTS.first)
event.update!(what: "is saved again")
tell("update! of what was discarded", "no error, #{Event.where(what: 'is saved again').count} rows changed", 1)
tell("insert_all", Event.insert_all(EVENTS.map { |user| { user_id: user } }, returning: %w[user_id]).rows.join(" "))
tell("insert_all!", Event.insert_all!(EVENTS.map { |user| { user_id: user } }, returning: %w[user_id]).rows.join(" "))
