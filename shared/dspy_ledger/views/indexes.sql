-- Made last when a view is built by replay. SQLite ends each with the rowid, which is the position: rows that
-- are equal in all its columns lie in order of position, the key of every page, and need no sorting.

-- Not unique: two events may claim one execution, and no event may stop a fold.
CREATE INDEX executions_by_id ON executions (execution_id);
CREATE INDEX executions_by_program ON executions (program_id, content_hash);
CREATE INDEX executions_by_model ON executions (model_id);
CREATE INDEX executions_by_trace ON executions (trace_id) WHERE trace_id IS NOT NULL;
CREATE INDEX executions_by_session ON executions (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX executions_by_user ON executions (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX executions_by_environment ON executions (environment) WHERE environment IS NOT NULL;
CREATE INDEX executions_failed ON executions (position) WHERE status = 'error';
CREATE INDEX evaluations_now ON evaluations (program_id) WHERE until IS NULL;
CREATE INDEX evaluations_by_program ON evaluations (program_id);
CREATE INDEX evaluations_by_execution ON evaluations (execution_id) WHERE execution_id IS NOT NULL;
CREATE INDEX evaluations_by_model ON evaluations (model_id);

CREATE TRIGGER feedback_given AFTER INSERT ON evaluations
WHEN NEW.program_id IS NULL AND NEW.execution_id IS NOT NULL BEGIN
    INSERT INTO feedback
    SELECT program_id, NEW.position FROM executions WHERE execution_id = NEW.execution_id
    ORDER BY position LIMIT 1;
END;
CREATE TRIGGER feedback_awaited AFTER INSERT ON executions
WHEN EXISTS (SELECT 1 FROM evaluations WHERE execution_id = NEW.execution_id AND program_id IS NULL) BEGIN
    INSERT INTO feedback
    SELECT NEW.program_id, position FROM evaluations
    WHERE execution_id = NEW.execution_id AND program_id IS NULL AND NOT EXISTS (
        SELECT 1 FROM executions WHERE execution_id = NEW.execution_id AND position < NEW.position
    );
END;
