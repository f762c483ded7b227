// Hibernate.java: Hibernate, with keys from a sequence and from an identity column, with
// the check of counts switched off, and through a view that lets every event count as
// inserted.  What is told: whose row in the database has the key that each object has got.
import java.util.*;
import javax.persistence.*;
import org.hibernate.*;
import org.hibernate.annotations.*;
import org.hibernate.cfg.Configuration;

public class Hibernate {
	static final String[] EVENTS = { "alice", "bob", "carol", "dave" };

	@MappedSuperclass
	public static abstract class Event {
		@javax.persistence.Column(name = "user_id") String user;
		abstract Long id();
	}

	@MappedSuperclass
	public static abstract class Sequenced extends Event {
		@Id @GeneratedValue(generator = "event_id_seq")
		@GenericGenerator(name = "event_id_seq", strategy = "sequence",
			parameters = @org.hibernate.annotations.Parameter(name = "sequence", value = "event_id_seq"))
		Long id;
		Long id() { return id; }
	}

	@MappedSuperclass
	public static abstract class Identified extends Event {
		@Id @GeneratedValue(strategy = GenerationType.IDENTITY) Long id;
		Long id() { return id; }
	}

	@javax.persistence.Entity @javax.persistence.Table(name = "event")
	public static class OfSequence extends Sequenced {}

	@javax.persistence.Entity @javax.persistence.Table(name = "event")
	@SQLInsert(sql = "INSERT INTO event (user_id, id) VALUES (?, ?)", check = ResultCheckStyle.NONE)
	public static class OfSequenceUnchecked extends Sequenced {}

	@javax.persistence.Entity @javax.persistence.Table(name = "event_in")
	public static class OfSequenceInView extends Sequenced {}

	@javax.persistence.Entity @javax.persistence.Table(name = "event")
	public static class OfIdentity extends Identified {}

	@javax.persistence.Entity @javax.persistence.Table(name = "event_in")
	public static class OfIdentityInView extends Identified {}

	public static void main(String[] args) throws Exception {
		Class<?>[] entities = { OfSequence.class, OfSequenceUnchecked.class, OfSequenceInView.class, OfIdentity.class, OfIdentityInView.class };
		String[] ways = { "sequence", "sequence, ResultCheckStyle.NONE", "sequence, view", "identity", "identity, view" };
		// the launcher of single files has a class loader of its own
		Thread.currentThread().setContextClassLoader(Hibernate.class.getClassLoader());
		Configuration configuration = new Configuration()
			.setProperty("hibernate.connection.url", "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"))
			.setProperty("hibernate.connection.username", "writer")
			.setProperty("hibernate.connection.password", System.getenv("PGPASSWORD"))
			.setProperty("hibernate.jdbc.batch_size", "20")
			.setProperty("hibernate.dialect", "org.hibernate.dialect.PostgreSQLDialect");
		for (Class<?> entity : entities)
			configuration.addAnnotatedClass(entity);
		SessionFactory factory = configuration.buildSessionFactory();

		for (int i = 0; i < entities.length; i++) {
			String reported;
			Session session = factory.openSession();
			try {
				session.beginTransaction();
				List<Event> made = new ArrayList<>();
				for (String user : EVENTS) {
					Event event = (Event) entities[i].getDeclaredConstructor().newInstance();
					event.user = user;
					session.save(event);
					made.add(event);
				}
				session.getTransaction().commit();
				StringJoiner keys = new StringJoiner(", ");
				for (Event event : made) {
					Object owner = session.createSQLQuery("SELECT user_id FROM event WHERE id = " + event.id()).uniqueResult();
					keys.add(event.user + " " + (owner == null ? "nobody" : owner));
				}
				reported = "keys of: " + keys;
			} catch (HibernateException e) {
				session.getTransaction().rollback();
				reported = e.getClass().getSimpleName();
			}
			session.close();

			session = factory.openSession();
			session.beginTransaction();
			Object[] tally = (Object[]) session.createSQLQuery("SELECT stored, discarded FROM tally()").uniqueResult();
			session.getTransaction().commit();
			session.close();
			System.out.println(String.join(" | ", "hibernate", ways[i], "" + EVENTS.length, reported, (String) tally[0], (String) tally[1]));
		}
	}
}
