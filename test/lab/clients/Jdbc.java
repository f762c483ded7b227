// Jdbc.java: PostgreSQL's JDBC driver.
import java.io.StringReader;
import java.sql.*;
import java.time.OffsetDateTime;
import java.util.*;
import org.postgresql.PGConnection;

public class Jdbc {
	static final String[] EVENTS = { "alice", "bob", "carol", "dave" };
	static final String INSERT = "INSERT INTO event (user_id) VALUES (?)";

	public static void main(String[] args) throws Exception {
		writers();
		readers();
		roles();
	}

	static void print(Object... columns) {
		StringJoiner line = new StringJoiner(" | ").add("jdbc");
		for (Object column : columns)
			line.add(String.valueOf(column));
		System.out.println(line);
	}

	static Connection connect(String user, String... options) throws SQLException {
		Properties properties = new Properties();
		properties.setProperty("user", user);
		properties.setProperty("password", System.getenv("PGPASSWORD"));
		for (String option : options)
			properties.setProperty(option.split("=")[0], option.split("=")[1]);
		return DriverManager.getConnection(
			"jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), properties);
	}

	// --- writers

	static void tell(Connection db, String way, String reported) throws SQLException {
		tell(db, way, EVENTS.length, reported);
	}

	static void tell(Connection db, String way, int offered, String reported) throws SQLException {
		try (ResultSet t = db.createStatement().executeQuery("SELECT * FROM tally()")) {
			t.next();
			print(way, offered, reported, t.getString(1), t.getString(2));
		}
	}

	static void writers() throws Exception {
		try (Connection db = connect("writer")) {
			try (PreparedStatement insert = db.prepareStatement(INSERT)) {
				StringJoiner counts = new StringJoiner(" ");
				for (String user : EVENTS) {
					insert.setString(1, user);
					counts.add("" + insert.executeUpdate());
				}
				tell(db, "executeUpdate", counts.toString());
			}
			try (PreparedStatement insert = db.prepareStatement(INSERT.replace("event", "event_in"))) {
				tell(db, "executeBatch, view", Arrays.toString(executeBatch(insert, EVENTS)));
			}
			try (PreparedStatement insert = db.prepareStatement(INSERT, Statement.RETURN_GENERATED_KEYS)) {
				StringJoiner keys = new StringJoiner(" ");
				for (String user : EVENTS) {
					insert.setString(1, user);
					insert.executeUpdate();
					keys.add(insert.getGeneratedKeys().next() ? "key" : "none");
				}
				tell(db, "executeUpdate, getGeneratedKeys", keys.toString());
			}
			batch(db, "executeBatch", INSERT, EVENTS);
			batch(db, "executeBatch, upsert",
				"INSERT INTO keyed (id, user_id) VALUES (gen_random_uuid(), ?) ON CONFLICT (id) DO UPDATE SET user_id = EXCLUDED.user_id", EVENTS);
			PreparedStatement insert = db.prepareStatement(INSERT, Statement.RETURN_GENERATED_KEYS);
			int[] counts = executeBatch(insert, EVENTS);
			ResultSet keys = insert.getGeneratedKeys();
			int n = 0;
			while (keys.next())
				n++;
			tell(db, "executeBatch, getGeneratedKeys", Arrays.toString(counts) + ", " + n + " keys");
			copy(db, "COPY, guard", "COPY event (user_id) FROM STDIN");
			copy(db, "COPY, WHERE", "COPY unguarded (user_id) FROM STDIN WHERE optout.accepts(user_id)");
		}
		try (Connection db = connect("writer", "reWriteBatchedInserts=true")) {
			batch(db, "executeBatch, reWriteBatchedInserts", INSERT, EVENTS);
			batch(db, "the same, all discarded", INSERT, "alice", "alice");
			// it makes a statement of four and one of a single row
			batch(db, "the same, one statement of two discarded", INSERT, "bob", "alice", "carol", "dave", "alice");
		}
	}

	static int[] executeBatch(PreparedStatement insert, String... events) throws SQLException {
		for (String user : events) {
			insert.setString(1, user);
			insert.addBatch();
		}
		return insert.executeBatch();
	}

	static void batch(Connection db, String way, String sql, String... events) throws SQLException {
		try (PreparedStatement insert = db.prepareStatement(sql)) {
			String counts = Arrays.toString(executeBatch(insert, events)).replace("" + Statement.SUCCESS_NO_INFO, "SUCCESS_NO_INFO");
			tell(db, way, events.length, counts);
		}
	}

	static void copy(Connection db, String way, String sql) throws Exception {
		long count = db.unwrap(PGConnection.class).getCopyAPI().copyIn(sql, new StringReader(String.join("\n", EVENTS) + "\n"));
		tell(db, way, "copyIn " + count);
	}

	// --- readers

	static void readers() throws SQLException {
		try (Connection db = connect("acme_reader")) {
			DatabaseMetaData meta = db.getMetaData();
			for (String view : new String[] { "user_list", "opt_out_list", "opt_out_history", "discards", "guarded", "status" }) {
				ResultSet table = meta.getTables(null, "optout", view, null);
				table.next();
				int comments = table.getString("REMARKS") == null ? 0 : 1;
				int nullable = 0;
				Map<String, String> types = new LinkedHashMap<>();
				ResultSet column = meta.getColumns(null, "optout", view, null);
				while (column.next()) {
					types.put(column.getString("COLUMN_NAME"), column.getString("TYPE_NAME"));
					comments += column.getString("REMARKS") == null ? 0 : 1;
					nullable += column.getInt("NULLABLE") == DatabaseMetaData.columnNullable ? 1 : 0;
				}
				print(view, table.getString("TABLE_TYPE"), "comments " + comments + " of " + (types.size() + 1),
					"nullable " + nullable + " of " + types.size(), contents(db, view, types));
			}

			ResultSet row = db.createStatement().executeQuery(
				"SELECT opted_out_at, floor(extract(epoch FROM opted_out_at) * 1000)::bigint FROM optout.opt_out_list");
			boolean same = true;
			while (row.next())
				same &= row.getTimestamp(1).getTime() == row.getLong(2)
					&& row.getObject(1, OffsetDateTime.class).toInstant().toEpochMilli() == row.getLong(2);
			print("time", same ? "the same instant" : "another instant");
		}
	}

	// Whose rows there are, and each column: its type, and the class of its values.
	static String contents(Connection db, String view, Map<String, String> types) throws SQLException {
		ResultSet row = db.createStatement().executeQuery("SELECT * FROM optout." + view);
		ResultSetMetaData meta = row.getMetaData();
		int n = meta.getColumnCount();
		String[] classes = new String[n + 1];
		Set<String> organizations = new TreeSet<>();
		int rows = 0;
		for (; row.next(); rows++) {
			if (meta.getColumnName(1).equals("organization"))
				organizations.add(row.getString(1));
			for (int i = 1; i <= n; i++)
				if (row.getObject(i) != null)
					classes[i] = row.getObject(i).getClass().getSimpleName();
		}
		StringJoiner columns = new StringJoiner(", ");
		for (int i = 1; i <= n; i++) {
			String name = meta.getColumnName(i);
			columns.add(name + " " + types.get(name) + " " + classes[i]
				+ (meta.isNullable(i) == ResultSetMetaData.columnNoNulls ? " never null" : ""));
		}
		return (organizations.isEmpty() ? rows + " rows" : "of " + String.join(" ", organizations)) + " | " + columns;
	}

	// --- the same connection, and the same prepared statement of it, under several roles

	static void roles() throws SQLException {
		try (Connection db = connect("app", "prepareThreshold=1")) {
			PreparedStatement users = db.prepareStatement("SELECT user_id FROM optout.user_list WHERE user_id <> ? ORDER BY user_id");
			StringJoiner seen = new StringJoiner(" | ");
			for (String role : new String[] { "SET ROLE acme_reader", "SET ROLE globex_reader", "RESET ROLE", "SET ROLE acme_reader" }) {
				db.createStatement().execute(role);
				Set<String> answers = new TreeSet<>();
				for (int i = 0; i < 7; i++) {
					StringJoiner answer = new StringJoiner(" ").setEmptyValue("none");
					users.setString(1, "nobody");
					ResultSet row = users.executeQuery();
					while (row.next())
						answer.add(row.getString(1));
					answers.add(answer.toString());
				}
				seen.add(role + ": " + String.join(" or ", answers));
			}
			ResultSet row = db.createStatement().executeQuery(
				"SELECT bool_or(generic_plans > 0) FROM pg_prepared_statements WHERE statement LIKE '%user_list%'");
			row.next();
			print("pooled, prepared", seen, "generic plan " + row.getBoolean(1));
		}
	}
}
