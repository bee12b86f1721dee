-- Fills the table at the end of a build; from then on the triggers of indexes.sql do.
-- Executions are walked, and not looked up by an index that a build does not have yet.
INSERT INTO feedback
SELECT program_id, position FROM (
    SELECT x.program_id, ev.position, min(x.position)
    FROM executions x
    CROSS JOIN evaluations ev ON ev.execution_id = x.execution_id AND ev.program_id IS NULL
    GROUP BY ev.position
);
